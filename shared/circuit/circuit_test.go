package circuit_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/streams"
)

var policy = breaker.Policy{Failures: 3, Open: time.Minute, Probes: 2, Spread: time.Second}

// process is one process of the service "test", until the test ends.
type process struct {
	*circuit.Breakers

	log strings.Builder // once it has ended
	end func()
}

func start(tb testing.TB, js jetstream.JetStream) *process {
	tb.Helper()
	p := &process{}
	var err error
	if p.Breakers, err = circuit.New(js, "test", slog.New(slog.NewTextHandler(&p.log, nil)), nil); err != nil {
		tb.Fatal(err)
	}
	p.end = natstest.Beside(tb, p.Run)
	return p
}

// call makes a call that ends in r, and reports whether it was admitted.
func (p *process) call(r breaker.Result) bool {
	c, v := p.Enter(policy, "api.example.com")
	if v.Admitted {
		p.Done(c, r)
	}
	return v.Admitted
}

var (
	works = breaker.Result{Outcome: breaker.Success}
	fails = breaker.Result{Outcome: breaker.Failure, Why: "connection refused"}
)

func apply(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	if _, err := streams.Apply(tb.Context(), js, streams.Default()); err != nil {
		tb.Fatal(err)
	}
}

func list(tb testing.TB, js jetstream.JetStream) []circuit.Entry {
	tb.Helper()
	var out []circuit.Entry
	for e, err := range circuit.List(tb.Context(), js, "") {
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// What opens in one process holds in the other within a second; one of them alone
// probes; and what closes there closes in both. Each transition is logged once.
func TestShared(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a, b := start(t, js), start(t, js)
		time.Sleep(time.Second)
		for range 3 {
			if !a.call(fails) || !b.call(works) {
				t.Fatal("a closed breaker admits no call")
			}
		}
		if a.call(fails) {
			t.Error("the process that opened it lets a call through")
		}
		time.Sleep(time.Second)
		if b.call(fails) {
			t.Error("the other process lets a call through after 1 s")
		}
		c := start(t, js) // one that starts meanwhile
		time.Sleep(time.Second)
		if c.call(fails) {
			t.Error("a process that was started meanwhile lets a call through")
		}

		time.Sleep(time.Minute)
		for _, p := range []*process{a, b, c} { // all want to probe
			if p.call(works) {
				t.Error("a call goes through before anybody has claimed the probes")
			}
		}
		time.Sleep(time.Second)
		probes := 0
		for range 2 {
			for _, p := range []*process{a, b, c} {
				if p.call(breaker.Result{Outcome: breaker.Success}) {
					probes++
				}
			}
		}
		if probes != policy.Probes {
			t.Errorf("%d probes over three processes, want %d", probes, policy.Probes)
		}
		time.Sleep(time.Second)
		for _, p := range []*process{a, b, c} {
			if !p.call(works) {
				t.Error("a call waits although the probes have succeeded")
			}
		}
		for _, p := range []*process{a, b, c} {
			p.end()
		}
		log := a.log.String() + b.log.String() + c.log.String()
		for _, what := range []string{"breaker opens", "breaker is half-open", "breaker closes"} {
			if n := strings.Count(log, what); n != 1 {
				t.Errorf("%q is logged %d times, want once:\n%s", what, n, log)
			}
		}
	})
}

// Failures are counted over all processes, and so are the successes that weigh
// against them.
func TestCountedOverProcesses(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a, b, c := start(t, js), start(t, js), start(t, js)
		time.Sleep(time.Second)
		for i, p := range []*process{a, b, c} { // of which each would need three
			if !p.call(fails) {
				t.Errorf("call %d waits", i+1)
			}
			time.Sleep(time.Second)
		}
		for _, p := range []*process{a, b, c} {
			if p.call(works) {
				t.Error("a call goes through after the third failure of the fleet")
			}
		}
		if all := list(t, js); len(all) != 1 || !strings.HasPrefix(all[0].Reason, "3 of 3 calls failed") {
			t.Errorf("List() = %+v, want one that opened by 3 of 3 calls", all)
		}
		if _, err := circuit.Close(t.Context(), js, circuit.Order{Service: "test", Destination: "api.example.com"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		a.call(fails)
		time.Sleep(time.Second)
		for range 6 {
			b.call(works)
		}
		time.Sleep(2 * time.Second)
		for range 4 {
			if !a.call(fails) {
				t.Error("a call waits although less than half of the fleet's calls failed")
			}
		}
		a.call(fails)
		if a.call(works) {
			t.Error("a call goes through although half of the fleet's calls failed")
		}
	})
}

// Credentials of before the subject was there: each process counts its own, and says
// so once.
func TestMayNotTell(t *testing.T) {
	t.Parallel()
	js, admin := natstest.Restricted(t, server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"$JS.API.>", "$KV.>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	})
	apply(t, admin)
	lines := make(lines, 10)
	b, err := circuit.New(js, "test", slog.New(slog.NewTextHandler(lines, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { b.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	if line := <-lines; !strings.Contains(line, "each process counts its own") || !strings.Contains(line, "breakers.test") {
		t.Errorf("logged %q, want what is not counted, and the subject", line)
	}
	p := process{Breakers: b}
	for range policy.Failures {
		if !p.call(fails) {
			t.Error("a closed breaker admits no call")
		}
	}
	if p.call(works) {
		t.Error("a call goes through after three failures")
	}
	if line := <-lines; !strings.Contains(line, "breaker opens") {
		t.Errorf("logged %q, want that it opens", line)
	}
}

// lines are what is logged, one at a time.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// A process that dies while it probes holds nobody up.
func TestOwnerDies(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a, b := start(t, js), start(t, js)
		time.Sleep(time.Second)
		for range 3 {
			a.call(fails)
		}
		time.Sleep(time.Minute + time.Second)
		a.call(works)
		time.Sleep(time.Second) // a has the probes
		a.end()
		time.Sleep(40 * time.Second)
		b.call(works)
		time.Sleep(time.Second)
		for i := range policy.Probes {
			if !b.call(works) {
				t.Errorf("the other process is refused probe %d, 40 s later", i+1)
			}
		}
	})
}

// A bucket that was lost and made anew is filled with what is open.
func TestBucketMadeAnew(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a := start(t, js)
		a.call(breaker.Result{Outcome: breaker.Asked, After: time.Hour, Why: "429"})
		time.Sleep(time.Second)
		if err := js.DeleteStream(t.Context(), "KV_BREAKERS"); err != nil {
			t.Fatal(err)
		}
		apply(t, js)
		time.Sleep(35 * time.Second)
		if all := list(t, js); len(all) != 1 || all[0].State != breaker.Open {
			t.Errorf("List() = %+v, want what the process knows", all)
		}
		if a.call(works) {
			t.Error("a call goes through because the bucket was lost")
		}
	})
}

// Operators open and close; both hold in every process, and stand in the trail.
func TestOperator(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js)
		a, b := start(t, js), start(t, js)
		o := circuit.Order{Service: "test", Destination: "api.example.com", For: time.Hour, Reason: "they asked us", By: "ada"}
		if _, err := circuit.Open(t.Context(), js, o); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if a.call(works) || b.call(works) {
			t.Error("a call goes through a second after an operator opened the breaker")
		}
		all := list(t, js)
		if len(all) != 1 || all[0].State != breaker.Open || all[0].By != "ada" || all[0].Reason != o.Reason || all[0].Service != "test" {
			t.Errorf("List() = %+v, want the breaker that ada opened", all)
		}
		if _, err := circuit.Close(t.Context(), js, o); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if !a.call(works) || !b.call(works) {
			t.Error("a call waits a second after an operator closed the breaker")
		}
		var verbs []string
		for e, err := range audit.List(t.Context(), js, audit.Filter{Verb: "breaker"}) {
			if err != nil {
				t.Fatal(err)
			}
			verbs = append(verbs, e.By+" "+e.Verb+" "+string(e.Phase))
		}
		if got, want := strings.Join(verbs, ", "), "ada breaker.open intent, ada breaker.open outcome, ada breaker.close intent, ada breaker.close outcome"; got != want {
			t.Errorf("trail: %s, want %s", got, want)
		}
		time.Sleep(time.Hour)
		if all := list(t, js); len(all) > 0 {
			t.Errorf("List() = %+v an hour after it was closed, want nothing", all)
		}
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	o := circuit.Order{Service: "test", Destination: "a", For: time.Minute}
	for e, err := range circuit.List(t.Context(), js, "") {
		if !errors.Is(err, record.ErrNoBucket) {
			t.Errorf("List() without a bucket = %v, %v, want ErrNoBucket", e, err)
		}
	}
	if _, err := circuit.Open(t.Context(), js, o); !errors.Is(err, audit.ErrNotStored) {
		t.Errorf("Open() without an audit trail = %v, want ErrNotStored", err)
	}
	apply(t, js)
	for _, o := range []circuit.Order{{Service: "test", Destination: "a"}, {Service: "a b", Destination: "a", For: time.Minute}, {Service: "test", For: time.Minute}, {Service: "test", Destination: "a", For: 25 * time.Hour}} {
		if _, err := circuit.Open(t.Context(), js, o); err == nil {
			t.Errorf("Open(%+v) = nil, want an error", o)
		}
	}
	if err := js.DeleteStream(t.Context(), "KV_BREAKERS"); err != nil {
		t.Fatal(err)
	}
	if _, err := circuit.Open(t.Context(), js, o); !errors.Is(err, record.ErrNoBucket) {
		t.Errorf("Open() without a bucket = %v, want ErrNoBucket", err)
	}
}

// What a task that has no trouble pays.
func BenchmarkWell(b *testing.B) {
	bs, err := circuit.New(natstest.JetStream(b), "test", slog.New(slog.DiscardHandler), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c, v := bs.Enter(policy, "api.example.com")
		if !v.Admitted {
			b.Fatal("not admitted")
		}
		bs.Done(c, works)
	}
}
