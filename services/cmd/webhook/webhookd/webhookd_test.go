package webhookd_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/services/cmd/webhook/webhookd"
	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/services/webhook"
	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/streams"
)

func TestMain(m *testing.M) {
	if os.Getenv("DROVER_TEST_ROLE") == "" {
		for _, v := range os.Environ() { // what the machine sets is not under test
			if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "DROVER_") {
				_ = os.Unsetenv(name)
			}
		}
	}
	natstest.Main(m, map[string]func() int{"webhook": func() int {
		return service.Exec(context.Background(), webhookd.Service(), nil, os.Stdout, teller{os.Stderr})
	}})
}

// teller says "ready" once the log says that tasks are taken.
type teller struct{ w io.Writer }

func (w teller) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if bytes.Contains(p, []byte("worker takes tasks")) {
		fmt.Println("ready")
	}
	return n, err
}

const slots = 16

const fleetFile = `classes:
  - {name: default, ack_wait: 30s, time_limit: 60s, attempts: 5, max_deliver: 3, wait_objective: 5s, slots: 16, max_bytes: 64MiB, backoff: {base: 500ms, cap: 1s}}
services:
  - {name: webhook, classes: [default], processes: 2}
dead: {max_bytes: 16MiB}
bodies: {max_bytes: 16MiB}
`

// fleet is two processes of the webhook service.
type fleet struct {
	js     jetstream.JetStream
	client *client.Client
	p      []*natstest.Process
}

// newFleet starts them. They may deliver to the receivers.
func newFleet(t *testing.T, env []string, receivers ...*receiver) *fleet {
	t.Helper()
	address, js := natstest.Listen(t)
	file := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(file, []byte(fleetFile), 0o600); err != nil {
		t.Fatal(err)
	}
	topology, err := streams.Load(file)
	if err == nil {
		_, err = streams.Apply(t.Context(), js, topology)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{js: js}
	if f.client, err = client.New(js); err != nil {
		t.Fatal(err)
	}
	ports := []string{"443"}
	for _, r := range receivers {
		ports = append(ports, r.port)
	}
	env = append(env, "DROVER_NATS_URL="+address, "DROVER_FLEET="+file, "DROVER_ADMIN_ADDR=127.0.0.1:0",
		"DROVER_WEBHOOK_SECRETS=default=whsec_"+strings.Repeat("QUJD", 8), "DROVER_WEBHOOK_ALLOW=127.0.0.0/8", "DROVER_WEBHOOK_PORTS="+strings.Join(ports, ","))
	for range 2 {
		f.p = append(f.p, natstest.Spawn(t, "webhook", env...))
	}
	return f
}

func (f *fleet) publish(t *testing.T, r *receiver) {
	t.Helper()
	if _, err := f.client.Publish(t.Context(), webhook.Deliver{URL: r.URL + "/path", Payload: 1}); err != nil {
		t.Fatal(err)
	}
}

// record is what the bucket says of the receiver.
func (f *fleet) record(t *testing.T, r *receiver) breaker.Record {
	t.Helper()
	for e, err := range circuit.List(t.Context(), f.js, "webhook") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Destination == r.host {
			return e.Record
		}
	}
	return breaker.Record{}
}

// metrics are what each process shows at its admin port.
func (f *fleet) metrics(t *testing.T) (out []string) {
	t.Helper()
	for _, p := range f.p {
		m := regexp.MustCompile(`admin port is open".* addr=(\S+)`).FindStringSubmatch(p.Output())
		if m == nil {
			t.Fatalf("no admin port in the log:\n%s", p.Output())
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m[1]+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(b))
	}
	return out
}

// has reports whether metrics have a line of that name and label that is not 0.
func has(metrics, name, label string) bool {
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, label) && !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			return true
		}
	}
	return false
}

func (f *fleet) stop() { natstest.StopAll(f.p...) }

// receiver is somebody's server.
type receiver struct {
	URL, host, port string

	mu     sync.Mutex
	answer http.HandlerFunc
	calls  []call
}

type call struct {
	id         string
	begun      time.Time
	took       time.Duration // until it was answered, or the caller went away
	successful bool
}

// receive starts a receiver that takes everything, unless answer answers first.
func receive(t *testing.T, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{answer: answer}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.URL, r.host = s.URL, u.Host
	if _, r.port, err = net.SplitHostPort(u.Host); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, in *http.Request) {
	_, _ = io.Copy(io.Discard, in.Body) // so that it is seen when the caller goes away
	r.mu.Lock()
	n, answer := len(r.calls), r.answer
	r.calls = append(r.calls, call{id: in.Header.Get("webhook-id"), begun: time.Now()})
	r.mu.Unlock()
	status := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	if answer != nil {
		answer(status, in)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[n].took, r.calls[n].successful = time.Since(r.calls[n].begun), status.status == http.StatusOK && in.Context().Err() == nil
}

type statusWriter struct {
	http.ResponseWriter

	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (r *receiver) mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = nil
}

func (r *receiver) all() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]call(nil), r.calls...)
}

// delivered counts the tasks that were taken.
func (r *receiver) delivered() int {
	ids := map[string]bool{}
	for _, c := range r.all() {
		if c.successful {
			ids[c.id] = true
		}
	}
	return len(ids)
}

// until waits for ok, for at most limit.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for late := time.After(limit); !ok(); {
		select {
		case <-ticks.C:
		case <-late:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
