package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/client"
	fleetstate "github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/doctor"
)

// A fleet that works has no findings, and the report says what was looked at.
func TestHealthy(t *testing.T) {
	t.Parallel()
	f := newFleet(t, streams.Default())
	done := make(chan bool, 100_000) // more than there will be
	f.work("email", func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, mail) error {
			done <- true
			return nil
		})
	})
	f.work("webhook", func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, hook) error {
			done <- true
			return nil
		})
	})
	f.publish(10, mail{})
	f.publish(10, hook{}, client.Class(task.Urgent))
	f.trickle(mail{})
	for range 20 {
		<-done
	}
	r := f.examine()
	if !r.Healthy || len(r.Findings) > 0 {
		t.Errorf("findings of a healthy fleet:\n%s", describe(r))
	}
	var subjects []string
	for _, c := range r.Checks {
		subjects = append(subjects, c.Subject)
	}
	want := "broker clock storage streams cluster topology processes lanes tasks destinations timers bodies given up answers"
	if got := strings.Join(subjects, " "); got != want {
		t.Errorf("looked at %q, want %q", got, want)
	}
}

// closed is an address on which nothing listens.
func closed(tb testing.TB) string {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// The broker is looked for at localhost, which in a container is the container.
func TestBrokerLocalhost(t *testing.T) {
	t.Parallel()
	url := "nats://" + closed(t)
	f := first(t, examine(t, doctor.Options{Fleet: small(), URL: url, Host: doctor.Host{ContainerEnv: true}}), "broker-localhost", url)
	says(t, f, "this is a container", "/run/.containerenv", "connection refused", "DROVER_NATS_URL=nats://nats:4222")
	f = first(t, examine(t, doctor.Options{Fleet: small(), URL: url}), "broker-refused", url)
	says(t, f, "connection refused", "drover up")
}

// What listens is no broker, or one that hangs.
func TestBrokerNotNATS(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, greeting, first string }{
		{"mail", "220 mail.example.org ESMTP\r\n", "broker-not-nats"},
		{"silence", "", "broker-timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Write([]byte(tt.greeting))
					wg.Go(func() {
						_, _ = io.Copy(io.Discard, c) // until the doctor gives up
						_ = c.Close()
					})
				}
			})
			t.Cleanup(func() {
				_ = l.Close()
				wg.Wait()
			})
			url := "nats://" + l.Addr().String()
			start := time.Now()
			first(t, examine(t, doctor.Options{Fleet: small(), URL: url, Limit: time.Second}), tt.first, url)
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("Examine took %v, want about the limit of 1s", took)
			}
		})
	}
}

// A class has a backlog and nobody works it.
func TestNobody(t *testing.T) {
	t.Parallel()
	f := newFleet(t, streams.Default())
	f.work("webhook", func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, hook) error { return nil })
	})
	f.publish(12, task.Raw{Name: "email.send"}, client.Class(task.Urgent))
	found := first(t, f.examine(), "lane-nobody", "urgent/email")
	says(t, found, "no worker takes urgent tasks of email", "12 tasks wait", "0 open pulls", "TASKS_URGENT/email", "no process of it is connected", "drover run email")
}

// All slots run a slow handler, and others wait.
func TestBusy(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	f.work("webhook", func(w *worker.Worker) {
		worker.Handle(w, func(ctx context.Context, _ hook) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
	})
	f.publish(9, hook{})
	f.inFlight("TASKS_DEFAULT", "webhook", 2)
	r := examine(t, doctor.Options{Fleet: f.Fleet, URL: f.url}) // by its second look, tasks have waited longer than they may
	found := first(t, r, "lane-busy", "default/webhook")
	says(t, found, "all slots of default/webhook are taken", "7 tasks wait", "2 in flight", "0 open pulls", "in flight: 2 webhook.deliver", "more processes of webhook")
}

// One destination does not work: its tasks pile up in RETRY, those of others run.
func TestDestination(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	down := "http://" + closed(t)
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(up.Close)
	f.work("webhook", func(w *worker.Worker) {
		worker.Handle(w, func(ctx context.Context, h hook) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, http.NoBody)
			if err != nil {
				return err
			}
			resp, err := up.Client().Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			return err
		})
	})
	f.publish(20, hook{down + "/hook"})
	f.publish(20, hook{up.URL})
	f.holds(task.RetryStream, 20)
	f.holds("TASKS_DEFAULT", 0)
	r := f.examine()
	host := strings.TrimPrefix(down, "http://")
	found := first(t, r, "destination", host)
	says(t, found, host+" refuses connections: this is not the fleet", "20 failures of 20 of webhook.deliver name it",
		"20 wait for a retry", "drover dead redrive --all --kind webhook.deliver --text '"+host+"' --yes")
	if len(r.Findings) != 1 {
		t.Errorf("findings = %v, want the destination alone", names(r))
	}
}

// A class is full.
func TestStreamFull(t *testing.T) {
	t.Parallel()
	fleet := small()
	fleet.Classes[0].MaxBytes = 1 << 20
	f := newFleet(t, fleet)
	c, err := client.New(f.js)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = c.Publish(t.Context(), hook{URL: noise(100 << 10)})
	}
	if !errors.Is(err, client.ErrFull) {
		t.Fatalf("Publish = %v, want ErrFull", err)
	}
	found := first(t, f.examine(), "stream-full", "stream TASKS_DEFAULT")
	says(t, found, "TASKS_DEFAULT is full", "of 1 MiB in", "other classes go on", "raise max_bytes of class default")
}

// A consumer is gone, or has another filter, or another ack-wait.
func TestDrift(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, first, object string
		change              func(context.Context, *fleet) error
		says                []string
	}{
		{
			name: "no consumer", first: "topology-missing", object: "consumer TASKS_DEFAULT/webhook",
			change: func(ctx context.Context, f *fleet) error { return f.js.DeleteConsumer(ctx, "TASKS_DEFAULT", "webhook") },
			says:   []string{"does not exist", "Nobody can take the tasks of default/webhook", "drover streams apply"},
		},
		{
			name: "filter", first: "topology-broken", object: "consumer TASKS_DEFAULT/webhook",
			change: func(ctx context.Context, f *fleet) error {
				return f.reconfigure(ctx, func(c *jetstream.ConsumerConfig) { c.FilterSubject = "tasks.default.webhook.deliver" })
			},
			says: []string{"its filter is not as the fleet file wants it", "the broker has tasks.default.webhook.deliver, the fleet file wants tasks.default.webhook.>", "nats consumer rm TASKS_DEFAULT webhook"},
		},
		{
			name: "ack wait", first: "topology-broken", object: "consumer TASKS_DEFAULT/webhook",
			change: func(ctx context.Context, f *fleet) error {
				return f.reconfigure(ctx, func(c *jetstream.ConsumerConfig) { c.AckWait = time.Second })
			},
			says: []string{"its ack wait is not", "the broker has 1 s, the fleet file wants 30 s", "runs twice", "refuse to start", "drover streams apply"},
		},
		{
			name: "nothing", first: "topology-missing", object: "topology",
			change: func(ctx context.Context, f *fleet) error {
				var errs []error
				for name := range f.js.StreamNames(ctx).Name() {
					errs = append(errs, f.js.DeleteStream(ctx, name))
				}
				return errors.Join(errs...)
			},
			says: []string{"holds nothing of this fleet", "drover streams apply"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, small())
			f.publish(5, hook{})
			if err := tt.change(t.Context(), f); err != nil {
				t.Fatal(err)
			}
			says(t, first(t, f.examine(), tt.first, tt.object), tt.says...)
		})
	}
}

func (f *fleet) reconfigure(ctx context.Context, change func(*jetstream.ConsumerConfig)) error {
	c, err := f.js.Consumer(ctx, "TASKS_DEFAULT", "webhook")
	if err != nil {
		return err
	}
	cfg := c.CachedInfo().Config
	change(&cfg)
	_, err = f.js.UpdateConsumer(ctx, "TASKS_DEFAULT", cfg)
	return err
}

// A producer is newer than its worker.
func TestUnknownKind(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	f.work("webhook", fails("unused"))
	f.publish(3, task.Raw{Name: "webhook.deliver2"})
	f.holds(task.DeadStream, 3)
	says(t, first(t, f.examine(), "unknown-kind", "webhook.deliver2"), "different versions", "3 in the last 5m0s, 0 in the 10m0s before", "drover dead redrive --all --kind webhook.deliver2")
}

// A class is paused.
func TestPaused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	f.work("webhook", fails("unused"))
	if _, err := f.js.PauseConsumer(t.Context(), "TASKS_DEFAULT", "webhook", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	f.publish(3, hook{})
	says(t, first(t, f.examine(), "lane-paused", "default/webhook"), "3 tasks wait", "until 20", "drover resume default/webhook")
}

// Tasks fail for a reason that names no destination.
func TestTasksFail(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	f.work("webhook", func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, hook) error { return retry.Permanent(errors.New("column total does not exist")) })
	})
	f.publish(3, hook{})
	f.holds(task.DeadStream, 3)
	says(t, first(t, f.examine(), "tasks-fail", "webhook.deliver"), "column total does not exist", "3 are dead", "drover dead ls --kind webhook.deliver")
}

// A destination asks to be called less often: its tasks are put off, and none fails.
func TestPutOff(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	f.work("webhook", func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, hook) error {
			return retry.After(time.Hour, errors.New("https://api.example.com: answered 429"))
		})
	})
	f.publish(7, hook{})
	f.holds(task.RetryStream, 7)
	says(t, first(t, f.examine(), "put-off", "webhook.deliver"), "7 tasks in RETRY are put off", "without burning attempts")
}

// A destination is dead behind a breaker: that few of its tasks are tried, and that
// most of them could wait for an hour, makes it no better.
func TestBreakerOpen(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	now := time.Now()
	for i := range 9 {
		st := task.State{
			Subject: task.Subject{Class: task.Default, Service: "webhook", Action: "deliver"}, ID: strconv.Itoa(i), Reason: task.Circuit,
			EnqueuedAt: now, Waits: []task.Wait{{Reason: task.Circuit, Times: 3, First: now.Add(-2 * time.Minute), Last: now}},
		}
		if i < 5 { // which opened it
			st.Attempt, st.Errors = 1, []task.Failure{{Attempt: 1, At: now.Add(-3 * time.Minute), Error: "https://api.example.com: answered 503"}}
		}
		f.park(st, now.Add(time.Hour))
	}
	order := circuit.Order{Service: "webhook", Destination: "api.example.com", For: time.Hour, By: "the test"}
	if _, err := circuit.Open(t.Context(), f.js, order); err != nil {
		t.Fatal(err)
	}
	r := f.examine()
	says(t, first(t, r, "destination", "api.example.com"), "answers 503")
	says(t, r.Findings[1], "webhook.deliver waits until a destination can be called again",
		"9 tasks in RETRY are held back because its breaker is open, the first for 2m", "drover breakers")
	for _, found := range r.Findings {
		if found.Severity != doctor.Failing {
			t.Errorf("%s is %s, want %s", found.Name, found.Severity, doctor.Failing)
		}
	}
	if _, err := circuit.Close(t.Context(), f.js, order); err != nil {
		t.Fatal(err)
	}
	if got := names(f.examine()); slices.Contains(got, "breaker-open") {
		t.Errorf("findings once the breaker is closed = %v, want no breaker-open", got)
	}
}

// Nobody looks after dead letters while the other services work, and the one who
// should is not ready.
func TestDeadletterAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	announce := func(service, notReady string) {
		t.Helper()
		if err := fleetstate.Put(t.Context(), f.js, fleetstate.Process{Service: service, Instance: "A", NotReady: notReady}); err != nil {
			t.Fatal(err)
		}
	}
	announce("webhook", "")
	says(t, first(t, f.examine(), "deadletter-away", "deadletter"), "none announces itself", "tells people of new kinds of death", "./deadletter")
	announce("deadletter", "the bucket ALERTS cannot be read")
	says(t, first(t, f.examine(), "process-not-ready", "deadletter"), "the bucket ALERTS cannot be read")
}

// One letter of a kind is for the morning; five are for now.
func TestFewDeadLetters(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]doctor.Severity{1: doctor.Slow, 5: doctor.Failing} {
		for _, reason := range []task.Reason{task.Permanent, task.Undecodable, task.UnknownKind, task.Expired} {
			t.Run(fmt.Sprint(n, " ", reason), func(t *testing.T) {
				t.Parallel()
				f := newFleet(t, small())
				for i := range n {
					f.bury(task.State{
						Subject: task.Subject{Class: task.Default, Service: "webhook", Action: "deliver"}, ID: strconv.Itoa(i), Attempt: 1,
						DiedAt: time.Now(), Reason: reason, Errors: []task.Failure{{Attempt: 1, At: time.Now(), Error: "no such column"}},
					}, nil)
				}
				for _, found := range f.examine().Findings {
					if found.Severity != want {
						t.Errorf("%s is %s, want %s", found.Name, found.Severity, want)
					}
				}
			})
		}
	}
}

// What a rate limit or a cap holds back for longer than it should wait is said, with where to
// look.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	one := func(hook) string { return "acme" }
	for _, tt := range []struct {
		name   string
		option worker.HandlerOption
		says   []string
	}{
		{
			"rate-limit", worker.RateLimit(ratelimit.Policy{Limit: 1, Per: time.Hour}, one),
			[]string{"comes faster than its rate limit lets it run", "tasks in RETRY are held back because of its rate limit, the first for ", "drover limits --waiting"},
		},
		{
			"cap", worker.Cap("db", 1),
			[]string{"waits for a resource whose permits are all in use", "tasks in RETRY are held back because of its cap, the first for ", "drover caps"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, small())
			f.work("webhook", func(w *worker.Worker) {
				worker.Handle(w, func(ctx context.Context, _ hook) error {
					if tt.name == "cap" { // its one permit is in use
						<-ctx.Done()
						return context.Cause(ctx)
					}
					return nil
				}, tt.option)
			})
			f.publish(9, hook{})
			var found []doctor.Finding
			f.until("most are held back for longer than the objective", func() bool {
				found = slices.DeleteFunc(f.examine().Findings, func(x doctor.Finding) bool { return x.Name != tt.name })
				return len(found) == 1 && found[0].Object == "webhook.deliver" && found[0].Count >= 5
			})
			says(t, found[0], tt.says...)
		})
	}
}

// What died long ago waits for somebody, and is no failure of now.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	old := time.Now().Add(-3 * time.Hour)
	for i := range 4 {
		f.bury(task.State{
			Subject: task.Subject{Class: task.Default, Service: "webhook", Action: "deliver"}, ID: strconv.Itoa(i), Attempt: 5,
			DiedAt: old, Reason: task.Failed, Errors: []task.Failure{{Attempt: 5, At: old, Error: "connection refused by api.example.com"}},
		}, nil)
	}
	r := f.examine()
	says(t, first(t, r, "dead-letters", "stream DEAD"), "4 dead letters wait for a decision", "4 webhook.deliver failed", "drover dead ls")
	if len(r.Findings) != 1 {
		t.Errorf("findings = %v, want one", names(r))
	}
}
