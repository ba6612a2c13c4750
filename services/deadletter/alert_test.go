package deadletter_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/nats-io/nats.go"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/droverhq/drover/services/deadletter"
	"github.com/droverhq/drover/services/internal/relay"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// letter is a dead letter of a kind of email.
func letter(action, id, text string) *nats.Msg {
	st := task.State{Subject: task.Subject{Class: task.Default, Service: "email", Action: action}, ID: id, Attempt: 5, Hop: 5, Reason: task.Failed, DiedAt: time.Now()}
	st.Fail(task.Failure{Attempt: 5, At: time.Now(), Error: text})
	h := st.Header(nats.Header{"traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}})
	h["Nats-Msg-Id"] = []string{st.MoveID()}
	return &nats.Msg{Subject: st.Subject.Dead(id), Header: h, Data: []byte{0x80}}
}

// told is the log line of an alert.
func told(line map[string]any) bool { return line["fingerprint"] != nil }

// receiver is a server that takes alerts.
type receiver struct {
	url string
	got chan deadletter.Alert
	bad chan string

	mu     sync.Mutex
	status int
}

func receive(tb testing.TB) *receiver {
	tb.Helper()
	r := &receiver{got: make(chan deadletter.Alert, 1000), bad: make(chan string, 1000), status: 200}
	srv := httptest.NewServer(r)
	tb.Cleanup(srv.Close)
	r.url = srv.URL + "/alerts"
	return r
}

func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	key, err := standardwebhooks.NewWebhook(strings.TrimPrefix(secret, "whsec_"))
	if err == nil {
		err = key.Verify(body, req.Header)
	}
	var event struct {
		Type string           `json:"type"`
		Data deadletter.Alert `json:"data"`
	}
	if err == nil {
		err = json.Unmarshal(body, &event)
	}
	r.mu.Lock()
	status := r.status
	r.mu.Unlock()
	w.WriteHeader(status)
	switch {
	case err != nil || event.Type != "drover.dead_letters":
		r.bad <- fmt.Sprintf("%v: %s", err, body)
	case status == 200:
		r.got <- event.Data
	default:
		r.bad <- strconv.Itoa(status)
	}
}

// mailbox is an SMTP server.
type mailbox struct {
	addr string
	got  chan string
}

func (m *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &mailSession{box: m}, nil }

type mailSession struct {
	box *mailbox
	to  []string
}

func (*mailSession) Reset()                               {}
func (*mailSession) Logout() error                        { return nil }
func (*mailSession) Mail(string, *smtp.MailOptions) error { return nil }
func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.box.got <- strings.Join(s.to, ",") + "\n" + string(text)
	return err
}

func mailServer(tb testing.TB) *mailbox {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	m := &mailbox{addr: l.Addr().String(), got: make(chan string, 1000)}
	srv := smtp.NewServer(m)
	srv.Domain = "test"
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	tb.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return m
}

func next[T any](tb testing.TB, ch <-chan T, what string) T {
	tb.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		tb.Fatalf("no %s comes", what)
		panic("unreachable")
	}
}

func everywhere(r *receiver, m *mailbox) deadletter.Config {
	c := quick()
	c.Gather = 300 * time.Millisecond
	c.Webhook = deadletter.Webhook{URL: r.url, Secret: secret}
	c.Mail = deadletter.Mail{To: []string{"ops@example.org", "Ann <ann@example.org>"}, From: "drover@example.com", Addr: m.addr, TLS: relay.NoTLS}
	return c
}

// A new kind of death is told once on every channel, with what an operator needs;
// another kind once more; and nothing of it again after a restart.
func TestAlerts(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	hooks, mails := receive(t), mailServer(t)
	r := start(t, js, everywhere(hooks, mails))
	for i := range 3 {
		publish(t, js, letter("send", fmt.Sprint("a", i), fmt.Sprintf("mailbox %d is full", i)))
	}
	line := r.log.wait(told)
	a := next(t, hooks.got, "webhook")
	if !a.New || a.Count != 3 || a.Kind != "email.send" || a.Class != "default" || a.Reason != "failed" ||
		a.Error != "mailbox 2 is full" || a.Example.ID != "a2" || a.Example.Trace != "0af7651916cd43dd8448eb211c80319c" ||
		a.Command != "drover dead ls --kind email.send --class default --reason failed" || a.Last.Before(a.First) {
		t.Errorf("the webhook says %+v", a)
	}
	if line["level"] != "WARN" || line["fingerprint"] != a.Fingerprint || line["count"] != 3.0 || line["example"] != "a2" ||
		line["example_trace"] != a.Example.Trace || line["look"] != a.Command {
		t.Errorf("the log says %v", line)
	}
	mail := strings.ReplaceAll(next(t, mails.got, "mail"), "\r\n ", " ") // a long header is folded
	for _, want := range []string{
		"ops@example.org,ann@example.org\n", "Subject: [drover] a new kind of death: email.send died as failed (3 times)", "mailbox 2 is full",
		"drover dead ls --kind email.send --class default --reason failed", "drover dead show 3", a.Fingerprint,
	} {
		if !strings.Contains(mail, want) {
			t.Errorf("the mail has no %q:\n%s", want, mail)
		}
	}
	publish(t, js, letter("check", "b", "no such user"))
	if b := next(t, hooks.got, "webhook"); b.Kind != "email.check" || b.Count != 1 || b.Fingerprint == a.Fingerprint {
		t.Errorf("the second webhook says %+v", b)
	}
	next(t, mails.got, "mail")
	r.log.wait(told)
	r.stop()

	publish(t, js, letter("send", "a3", "mailbox 99 is full"))
	again := start(t, js, everywhere(hooks, mails))
	publish(t, js, letter("send", "a4", "mailbox 100 is full"))
	publish(t, js, letter("again", "c", "new"))
	if c := next(t, hooks.got, "webhook"); c.Kind != "email.again" {
		t.Errorf("after a restart the webhook says %+v, want what is new alone", c)
	}
	again.log.wait(func(line map[string]any) bool { return told(line) && line["task.kind"] == "email.again" })
	next(t, mails.got, "mail")
	again.stop()
	if n := len(hooks.got) + len(mails.got) + len(hooks.bad) + len(again.log.rest(told)); n != 0 {
		t.Errorf("%d more alerts came, want none", n)
	}
}

// With nothing configured, a new kind is in the log well within half a minute of
// its death; what came while nobody ran counts too.
func TestAlertWithinHalfAMinute(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	r := start(t, js, deadletter.Config{})
	begun := time.Now()
	publish(t, js, letter("send", "a", "mailbox is full"))
	r.log.wait(told)
	took := time.Since(begun)
	t.Logf("told after %v", took)
	if took > 15*time.Second {
		t.Errorf("an alert took %v, want less than half of 30s on an idle broker", took)
	}
}

// More deaths of a known kind are told once in an interval, with their number.
func TestSummaries(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	hooks, mails := receive(t), mailServer(t)
	cfg := everywhere(hooks, mails)
	cfg.Interval = time.Second
	start(t, js, cfg)
	publish(t, js, letter("send", "a", "full"))
	if a := next(t, hooks.got, "webhook"); !a.New || a.Count != 1 {
		t.Errorf("the first webhook says %+v", a)
	}
	begun := time.Now()
	for i := range 20 {
		publish(t, js, letter("send", fmt.Sprint("b", i), "full"))
	}
	a := next(t, hooks.got, "webhook")
	if took := time.Since(begun); a.New || a.Count != 21 || a.More != 20 || took < cfg.Interval/2 {
		t.Errorf("after %v the second webhook says %+v, want all of 20 at once", took, a)
	}
}

// A kind that nothing more died of is not told again, however much time goes by.
func TestNothingMore(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	hooks, mails := receive(t), mailServer(t)
	cfg := everywhere(hooks, mails)
	cfg.Interval = 20 * time.Millisecond // many of them until the second kind is told
	start(t, js, cfg)
	for _, action := range []string{"send", "check"} {
		publish(t, js, letter(action, "a", "full"))
		if a := next(t, hooks.got, "webhook"); a.Kind != "email."+action {
			t.Errorf("the webhook says %+v, want email.%s", a, action)
		}
	}
}

// Ten thousand deaths of one kind are one alert and one entry.
func TestFlood(t *testing.T) {
	t.Parallel()
	const deaths = 10_000
	js := natstest.JetStream(t)
	topology(t, js)
	hooks, mails := receive(t), mailServer(t)
	r := start(t, js, everywhere(hooks, mails))
	for i := range deaths {
		if _, err := js.PublishMsgAsync(letter("send", strconv.Itoa(i), fmt.Sprintf("order %d: timeout after %dms", i, i))); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	next(t, hooks.got, "webhook")
	next(t, mails.got, "mail")
	kv, err := js.KeyValue(t.Context(), "ALERTS")
	if err != nil {
		t.Fatal(err)
	}
	w, err := kv.Watch(t.Context(), "group.*")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Stop() }()
	keys := map[string]bool{}
	for count := 0; count < deaths; {
		e := next(t, w.Updates(), "entry")
		if e == nil {
			continue
		}
		var g struct {
			Count int `json:"count"`
		}
		if err := json.Unmarshal(e.Value(), &g); err != nil {
			t.Fatal(err)
		}
		keys[e.Key()], count = true, g.Count
	}
	r.stop()
	if n := len(hooks.got) + len(mails.got) + len(hooks.bad); n != 0 || len(keys) != 1 || len(r.log.rest(told)) != 1 {
		t.Errorf("%d more alerts and %d entries, want none and 1", n, len(keys))
	}
}

// Where every death has an error of its own, a few are told, and the rest as one.
func TestTooManyKinds(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	r := start(t, js, quick())
	for i := range deadletter.MaxNew + 30 {
		publish(t, js, letter("send", strconv.Itoa(i), "cannot "+strings.Repeat("x", i+1)))
	}
	seen := map[any]int{}
	for range deadletter.MaxNew + 1 {
		seen[r.log.wait(told)["fingerprint"]]++
	}
	r.stop()
	if rest := r.log.rest(told); len(rest) != 0 || len(seen) != deadletter.MaxNew+1 || seen["other"] != 1 {
		t.Errorf("%d kinds were told, the rest %d times, and %d more alerts came; want %d, once, none", len(seen), seen["other"], len(rest), deadletter.MaxNew+1)
	}
}

// A channel that fails is tried until it works, and holds up nobody.
func TestChannelFails(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	hooks, mails := receive(t), mailServer(t)
	hooks.answer(503)
	r := start(t, js, everywhere(hooks, mails))
	publish(t, js, letter("send", "a", "full"))
	next(t, mails.got, "mail")
	next(t, hooks.bad, "webhook")
	line := r.log.wait(saying("an alert did not arrive; it is tried again until it does"))
	if text, _ := line["error"].(string); line["channel"] != "webhook" || !strings.Contains(text, "answered 503") || strings.Contains(text, "/alerts") {
		t.Errorf("the log says %v, want the channel and the answer without the path", line)
	}
	publish(t, js, letter("check", "b", "other"))
	next(t, mails.got, "mail")
	hooks.answer(200)
	kinds := next(t, hooks.got, "webhook").Kind + " " + next(t, hooks.got, "webhook").Kind
	if kinds != "email.send email.check" {
		t.Errorf("the webhook was told of %s, want both, in their order", kinds)
	}
	r.log.wait(saying("alerts arrive again"))
	if err := r.ready(); err != nil {
		t.Errorf("Ready = %v, want nil: tasks are moved all the same", err)
	}
}

// Of several processes one raises alerts, and another when that one is killed.
func TestLeader(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js)
	const leads = "this process leads: it sweeps and raises alerts"
	p := natstest.Spawn(t, "watchdog", envURL+"="+url)
	kv, err := js.KeyValue(t.Context(), "ALERTS")
	if err != nil {
		t.Fatal(err)
	}
	w, err := kv.Watch(t.Context(), "leader")
	if err != nil {
		t.Fatal(err)
	}
	for next(t, w.Updates(), "leader") == nil { // until there is one
	}
	_ = w.Stop()
	r := start(t, js, quick())
	publish(t, js, letter("send", "a", "full"))
	letters(t, js, 1)
	p.Pause() // a leader that hangs is worse than one that is gone
	r.log.wait(saying(leads))
	publish(t, js, letter("check", "b", "full"))
	for {
		if line := r.log.wait(told); line["task.kind"] == "email.check" {
			break
		}
	}
	p.Signal(syscall.SIGCONT)
	r.stop()
	p.Stop()
	if n := strings.Count(p.Output(), "email.check"); n > 0 {
		t.Errorf("the former leader told of a death after it was deposed:\n%s", p.Output())
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config deadletter.Config
		want   string
	}{
		{"negative", deadletter.Config{Sweep: -1}, "--sweep -1ns: it cannot be negative"},
		{"removed before it is one", deadletter.Config{OrphanRemove: time.Hour}, "--orphan-remove 1h0m0s: want at least --orphan-age, 24h0m0s"},
		{"url", deadletter.Config{Webhook: deadletter.Webhook{URL: "ftp://x/y"}}, "--alert-webhook-url: want https://"},
		{"secret", deadletter.Config{Webhook: deadletter.Webhook{URL: "https://x/y", Secret: "whsec_%%%"}}, "--alert-webhook-secret: want whsec_"},
		{"secret alone", deadletter.Config{Webhook: deadletter.Webhook{Secret: secret}}, "--alert-webhook-url is not"},
		{"mail without a server", deadletter.Config{Mail: deadletter.Mail{To: []string{"a@b.c"}, From: "a@b.c"}}, "DROVER_SMTP_ADDR"},
		{"mail without a sender", deadletter.Config{Mail: deadletter.Mail{To: []string{"a@b.c"}, Addr: "h:25"}}, "--smtp-from"},
		{"mail to nobody", deadletter.Config{Mail: deadletter.Mail{To: []string{"a"}, From: "a@b.c", Addr: "h:25"}}, `--alert-mail-to "a"`},
		{"password in the clear", deadletter.Config{Mail: deadletter.Mail{To: []string{"a@b.c"}, From: "a@b.c", Addr: "h:25", TLS: relay.NoTLS, Username: "u"}}, "must not travel unencrypted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := deadletter.New(tt.config)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New = %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "MfKQ9") {
				t.Errorf("New shows the secret: %v", err)
			}
		})
	}
	if _, err := deadletter.New(deadletter.Config{}); err != nil {
		t.Errorf("New of the zero Config = %v, want nil", err)
	}
}
