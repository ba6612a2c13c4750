package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/chaos"
)

// envWant names the violation that the checker has to find, because the binary
// makes a mistake on purpose: see TestMistakes.
const envWant = "CHAOS_WANT"

// scenario is a small fleet in which one thing goes wrong, as exactly as can be.
type scenario struct {
	name  string
	setup func(*setup) // of what small gives; may be nil
	run   func(*fleet)
}

var scenarios = []scenario{
	{"failures", nil, failures},
	{"hang", func(s *setup) { s.TimeLimit, s.Grace = time.Second, 500*time.Millisecond }, hang},
	{"long", func(s *setup) { s.TimeLimit = 10 * time.Second }, long},
	{"retry refuses", nil, func(f *fleet) { refusal(f, f.refuseRetry(nil), deed{Plan: chaos.PlanFail, Times: 1}, chaos.Failed) }},
	{"dead refuses", nil, func(f *fleet) { refusal(f, f.refuseDead(nil), deed{Plan: chaos.PlanPermanent}, chaos.Permanent) }},
	{"poison", nil, poison},
	{"stopped", func(s *setup) { s.TimeLimit = 10 * time.Second }, stopped},
	{"late", nil, late},
	{"overslept", func(s *setup) {
		s.AckWait, s.TimeLimit, s.Grace = 8*time.Second, time.Second, 500*time.Millisecond
	}, overslept},
	{"unheard", nil, unheard},
	{"drain", nil, drain},
	{"body", nil, func(f *fleet) {
		f.worker()
		f.publish("large", deed{Plan: chaos.PlanFail, Times: 1, Bulk: incompressible(rand.New(rand.NewPCG(1, 1)), 400<<10)})
	}},
}

// Each thing that can go wrong, by itself: nothing is lost by it, and nothing runs
// that should not.
func TestScenario(t *testing.T) {
	t.Parallel()
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			s := small(1)
			if sc.setup != nil {
				sc.setup(&s)
			}
			f := newFleet(t, s)
			stopTimers := f.watchTimers()
			sc.run(f)
			want := os.Getenv(envWant)
			limit := 30 * time.Second
			if want != "" {
				limit = 12 * time.Second // what is wrong may never come to rest
			}
			f.rest(limit)
			stopTimers()
			r := f.finish(time.Second)
			var b strings.Builder
			if _, err := r.WriteTo(&b); err != nil {
				t.Fatal(err)
			}
			switch {
			case want == "" && len(r.Violations) > 0:
				t.Errorf("%d promises were not kept:\n%s", len(r.Violations), &b)
			case want != "" && !r.Has(want):
				t.Errorf("the checker does not find %q:\n%s", want, &b)
			}
		})
	}
}

// publish publishes one task past all links, and writes that down.
func (f *fleet) publish(id string, d deed) {
	f.tb.Helper()
	c, err := client.New(f.js)
	if err != nil {
		f.tb.Fatal(err)
	}
	if err := publish(f.tb.Context(), f.ledger, c, id, d); err != nil {
		f.tb.Fatal(err)
	}
}

// until waits for an event in the ledger, and supervises meanwhile.
func (f *fleet) until(what string, ok func(*chaos.Event) bool) {
	f.tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		f.supervise()
		l, err := chaos.Read(f.dir)
		if err != nil {
			f.tb.Fatal(err)
		}
		for i := range l.Events {
			if ok(&l.Events[i]) {
				return
			}
		}
		if time.Now().After(deadline) {
			f.tb.Fatalf("not within 20s: %s\n%s", what, f.state(l))
		}
	}
}

// state is what is known of the fleet when it does not do what it should.
func (f *fleet) state(l *chaos.Ledger) string {
	var b strings.Builder
	for _, e := range l.Events[max(0, len(l.Events)-30):] {
		fmt.Fprintf(&b, "%v %s %s %d %s %s\n", time.Duration(e.Mono), e.Proc, e.What, e.PID, e.ID, e.Verdict)
	}
	for stream, durable := range map[string]string{task.Default.Stream(): service, task.RetryStream: task.Default.RetryConsumer(service)} {
		c, err := f.js.Consumer(f.tb.Context(), stream, durable)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", durable, err)
			continue
		}
		i := c.CachedInfo()
		fmt.Fprintf(&b, "%s: %d pending, %d unacknowledged, %d delivered again, %d wait for tasks\n",
			durable, i.NumPending, i.NumAckPending, i.NumRedelivered, i.NumWaiting)
	}
	return b.String()
}

// happened is until of one kind of event of one task, in any process or one.
func (f *fleet) happened(what chaos.What, id string, by *member) {
	f.tb.Helper()
	run := map[string]bool{}
	f.until(fmt.Sprintf("%s of %s", what, id), func(e *chaos.Event) bool {
		run[e.Run] = run[e.Run] || e.ID == id
		return e.What == what && run[e.Run] && (by == nil || by.name == e.Proc)
	})
}

func (f *fleet) mendAll() { f.mendDue(true) }

// All that a handler can say, and nothing else.
func failures(f *fleet) {
	f.worker()
	soon := 300 * time.Millisecond
	for i := range 3 {
		f.publish(fmt.Sprint("work", i), deed{Plan: chaos.PlanWork})
		f.publish(fmt.Sprint("fail", i), deed{Plan: chaos.PlanFail, Times: 1 + i})
		f.publish(fmt.Sprint("put-off", i), deed{Plan: chaos.PlanPutOff, Delay: soon, Age: 3 * soon})
	}
	f.publish("hopeless", deed{Plan: chaos.PlanHopeless})
	f.publish("permanent", deed{Plan: chaos.PlanPermanent})
	f.publish("panic", deed{Plan: chaos.PlanPanic})
}

func hang(f *fleet) {
	f.worker()
	f.publish("hang", deed{Plan: chaos.PlanHang})
}

// A task takes several times as long as the lease lasts.
func long(f *fleet) {
	f.worker()
	f.worker()
	f.publish("long", deed{Plan: chaos.PlanWork, Work: 5 * f.setup.AckWait / 2})
}

// A stream does not take what a worker has to move, and the worker is killed.
func refusal(f *fleet, v *victim, d deed, verdict string) {
	w := f.worker()
	f.begin("refuse-"+strings.ToLower(v.target), v, time.Hour)
	f.publish("task", d)
	if v.target == task.DeadStream { // it has room for one letter
		f.publish("first", deed{Plan: chaos.PlanPermanent})
	}
	ends := map[string]bool{}
	f.until("the handlers return", func(e *chaos.Event) bool {
		if e.What == chaos.End && e.Verdict == verdict {
			ends[e.Run] = true
		}
		return len(ends) == 1 && v.target != task.DeadStream || len(ends) == 2
	})
	time.Sleep(500 * time.Millisecond) // for what a mistaken worker does then
	f.begin(chaos.KillWorker, f.killWorker(w), 0)
	f.mendAll()
}

// A task kills whatever runs it, beside others.
func poison(f *fleet) {
	f.worker()
	f.publish("poison", deed{Plan: chaos.PlanPoison, Work: 200 * time.Millisecond})
	for i := range 4 {
		f.publish(fmt.Sprint("beside", i), deed{Plan: chaos.PlanWork, Work: 100 * time.Millisecond})
	}
}

// A worker is stopped in the middle of a task until another has it.
func stopped(f *fleet) {
	zombie := f.worker()
	f.publish("task", deed{Plan: chaos.PlanWork, Work: 2 * f.setup.AckWait})
	f.happened(chaos.Start, "task", zombie)
	f.begin(chaos.StopWorker, f.stopWorker(zombie), time.Hour)
	f.happened(chaos.Start, "task", f.worker())
	f.mendAll()
	f.happened(chaos.End, "task", zombie)
}

// A worker is stopped when its handlers' time is over, and their grace too: they
// hear of it when it goes on.
func overslept(f *fleet) {
	w := f.worker()
	for i := range slots {
		f.publish(fmt.Sprint("task", i), deed{Plan: chaos.PlanStubborn})
	}
	f.happened(chaos.Start, fmt.Sprint("task", slots-1), w)
	f.begin(chaos.StopWorker, f.stopWorker(w), time.Hour)
	time.Sleep(2 * time.Second)
	f.mendAll()
}

// A worker is stopped while it waits for tasks, and finds late what another has
// done.
func late(f *fleet) {
	zombie := f.worker()
	f.publish("first", deed{Plan: chaos.PlanWork})
	f.happened(chaos.End, "first", zombie)
	f.begin(chaos.StopWorker, f.stopWorker(zombie), time.Hour)
	f.publish("task", deed{Plan: chaos.PlanWork})
	f.happened(chaos.End, "task", f.worker())
	f.mendAll()
	time.Sleep(300 * time.Millisecond) // to read what is late
}

// A move is stored, and its worker never hears of it: it cannot acknowledge.
func unheard(f *fleet) {
	first := f.worker()
	tripped := first.link.CutAfter("retry.wait.")
	f.publish("task", deed{Plan: chaos.PlanPutOff, Delay: 3 * f.setup.AckWait, Age: 2 * f.setup.AckWait})
	select {
	case <-tripped:
	case <-time.After(20 * time.Second):
		f.tb.Fatal("no move was sent")
	}
	f.begin(chaos.CutWorker, f.cutWorker(first), time.Hour)
	f.worker()
	time.Sleep(2 * f.setup.AckWait) // in which the original comes back
	f.mendAll()
}

// Tasks arrive at a worker that is told to end.
func drain(f *fleet) {
	w := f.worker()
	asks := w.link.Sends("CONSUMER.MSG.NEXT." + task.Default.Stream() + ".") // it has asked for a moment when it is told
	select {
	case <-asks:
	case <-time.After(20 * time.Second):
		f.tb.Fatal("the worker does not ask for tasks")
	}
	w.away = true
	f.begin(chaos.TermWorker, f.termWorker(w), time.Hour)
	time.Sleep(50 * time.Millisecond)
	for i := range 5 {
		f.publish(fmt.Sprint("late", i), deed{Plan: chaos.PlanWork})
	}
	select {
	case <-w.proc.Done():
	case <-time.After(20 * time.Second):
		f.tb.Fatal("the worker does not end")
	}
	f.worker()
	f.mendAll()
}
