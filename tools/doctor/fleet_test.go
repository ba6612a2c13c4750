package doctor_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/doctor"
)

const patience = 30 * time.Second // for what happens in milliseconds on a machine at rest

// fleet is a broker with a topology, on which a test breaks something.
type fleet struct {
	tb  testing.TB
	url string
	js  jetstream.JetStream
	*streams.Fleet
}

// small is a fleet of one service and one class.
func small() *streams.Fleet {
	return &streams.Fleet{
		Classes: []streams.Class{{
			Name: task.Default, AckWait: 30 * time.Second, TimeLimit: time.Minute, Attempts: 5, MaxDeliver: 3,
			WaitObjective: 100 * time.Millisecond, Slots: 2, RetrySlots: 2, MaxBytes: 8 << 20,
			Backoff: streams.Backoff{Base: time.Minute, Cap: 10 * time.Minute},
		}},
		Services: []streams.Service{{Name: "webhook", Classes: []task.Class{task.Default}}},
		Dead:     streams.Store{MaxBytes: 8 << 20},
		Bodies:   streams.Store{MaxBytes: 8 << 20},
	}
}

// newFleet starts a broker and makes the topology of f.
func newFleet(tb testing.TB, f *streams.Fleet) *fleet {
	tb.Helper()
	url, js := natstest.Listen(tb)
	out := &fleet{tb: tb, url: url, js: js, Fleet: f}
	out.apply()
	return out
}

func (f *fleet) apply() {
	f.tb.Helper()
	if _, err := streams.Apply(f.tb.Context(), f.js, f.Fleet); err != nil {
		f.tb.Fatal(err)
	}
}

// work runs a worker of a service until the test ends. register hangs handlers on it.
func (f *fleet) work(service string, register func(*worker.Worker), opts ...worker.Option) {
	f.tb.Helper()
	s, _ := f.Service(service)
	var classes []worker.Class
	for _, name := range s.Classes {
		c, _ := f.Class(name)
		classes = append(classes, worker.Class{Name: c.Name, Slots: c.Slots, RetrySlots: c.RetrySlots, TimeLimit: c.TimeLimit, Retry: c.Retry(), MaxDeliver: c.MaxDeliver, Partitions: c.Partitions})
	}
	// A connection of its own, as a process has.
	w, err := worker.New(natstest.Connect(f.tb, f.url), service, append([]worker.Option{
		worker.Serve(classes...), worker.Logger(slog.New(slog.DiscardHandler)), worker.DrainLimit(0), worker.Grace(100 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		f.tb.Fatal(err)
	}
	register(w)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			f.tb.Errorf("worker of %s: %v", service, err)
		}
	})
	f.tb.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	f.until("the worker takes tasks", func() bool { return w.Ready() == nil })
}

// hook is a task of the webhook service.
type hook struct {
	URL string `msgpack:"url"`
}

func (hook) Kind() string { return "webhook.deliver" }

// mail is a task of the email service.
type mail struct{}

func (mail) Kind() string { return "email.send" }

// publish publishes n tasks.
func (f *fleet) publish(n int, args task.Args, opts ...client.PublishOption) {
	f.tb.Helper()
	c, err := client.New(f.js)
	if err != nil {
		f.tb.Fatal(err)
	}
	for range n {
		if _, err := c.Publish(f.tb.Context(), args, opts...); err != nil {
			f.tb.Fatal(err)
		}
	}
}

// trickle publishes a task every few milliseconds until the test ends.
func (f *fleet) trickle(args task.Args) {
	f.tb.Helper()
	c, err := client.New(f.js)
	if err != nil {
		f.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if _, err := c.Publish(ctx, args); err != nil && ctx.Err() == nil {
				f.tb.Errorf("Publish = %v", err)
				return
			}
			<-tick.C
		}
	})
	f.tb.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// holds waits until a stream holds n messages.
func (f *fleet) holds(stream string, n uint64) {
	f.tb.Helper()
	f.until(fmt.Sprintf("%s holds %d", stream, n), func() bool {
		s, err := f.js.Stream(f.tb.Context(), stream)
		return err == nil && s.CachedInfo().State.Msgs == n
	})
}

// inFlight waits until a consumer has n tasks in flight.
func (f *fleet) inFlight(stream, consumer string, n int) {
	f.tb.Helper()
	f.until(fmt.Sprintf("%s/%s has %d in flight", stream, consumer, n), func() bool {
		c, err := f.js.Consumer(f.tb.Context(), stream, consumer)
		return err == nil && c.CachedInfo().NumAckPending == n
	})
}

func (f *fleet) until(what string, is func() bool) {
	f.tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(end) {
			f.tb.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// examine lets the doctor look, twice within a moment that is short for a test's sake.
func (f *fleet) examine() doctor.Report {
	f.tb.Helper()
	return examine(f.tb, doctor.Options{Fleet: f.Fleet, URL: f.url, Interval: 200 * time.Millisecond})
}

func examine(tb testing.TB, o doctor.Options) doctor.Report {
	tb.Helper()
	start := time.Now()
	o.Contained = []string{"email", "webhook"}
	r, err := doctor.Examine(tb.Context(), o)
	if err != nil {
		tb.Fatalf("Examine = %v", err)
	}
	if took, most := time.Since(start), 10*time.Second; took > most {
		tb.Errorf("Examine took %v, want %v at most", took, most)
	}
	return r
}

// first checks that the first finding names the cause, and returns it.
func first(tb testing.TB, r doctor.Report, name, object string) doctor.Finding {
	tb.Helper()
	if len(r.Findings) == 0 {
		tb.Fatalf("no findings, want %s of %s first\nlooked at: %+v", name, object, r.Checks)
	}
	f := r.Findings[0]
	if f.Name != name || f.Object != object {
		tb.Fatalf("the first finding is %s of %s, want %s of %s\n%s", f.Name, f.Object, name, object, describe(r))
	}
	if f.Wrong == "" || f.Follows == "" || len(f.Evidence) == 0 || len(f.Remedy) == 0 {
		tb.Errorf("%s lacks something: %+v", name, f)
	}
	return f
}

// says checks that the evidence and the remedies hold texts.
func says(tb testing.TB, f doctor.Finding, texts ...string) {
	tb.Helper()
	all := strings.Join(append(append([]string{f.Wrong, f.Follows}, f.Evidence...), f.Remedy...), "\n")
	for _, t := range texts {
		if !strings.Contains(all, t) {
			tb.Errorf("%s does not say %q:\n%s", f.Name, t, all)
		}
	}
}

func names(r doctor.Report) []string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, f.Name)
	}
	return out
}

func describe(r doctor.Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s %s: %s\n    %s\n    %s\n    %s\n", f.Severity, f.Name, f.Object, f.Wrong,
			strings.Join(f.Evidence, "\n    "), f.Follows, strings.Join(f.Remedy, "\n    "))
	}
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%s: %s\n", c.Subject, c.Text)
	}
	return b.String()
}

// bury stores a dead letter as a worker does.
func (f *fleet) bury(s task.State, body []byte) {
	f.tb.Helper()
	if s.EnqueuedAt.IsZero() {
		s.EnqueuedAt = s.DiedAt.Add(-time.Minute)
	}
	h := s.Header(nil)
	if _, err := f.js.PublishMsg(f.tb.Context(), &nats.Msg{Subject: s.Subject.Dead(s.ID), Header: h, Data: body}); err != nil {
		f.tb.Fatal(err)
	}
}

// park puts a task on a timer of the broker.
func (f *fleet) park(s task.State, until time.Time) {
	f.tb.Helper()
	h := s.Header(nil)
	h.Set(task.HeaderSchedule, "@at "+until.UTC().Format(time.RFC3339Nano))
	h.Set(task.HeaderScheduleTarget, s.Subject.RetryReady(s.ID))
	if _, err := f.js.PublishMsg(f.tb.Context(), &nats.Msg{Subject: s.Subject.RetryWait(s.ID), Header: h}); err != nil {
		f.tb.Fatal(err)
	}
}

// fails is a handler whose destination does not work.
func fails(text string) func(*worker.Worker) {
	return func(w *worker.Worker) {
		worker.Handle(w, func(context.Context, hook) error { return fmt.Errorf("%s", text) })
	}
}

// noise is text of n bytes that compression does not help.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return base64.StdEncoding.EncodeToString(b)[:n]
}
