package worker_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

const partitions = 8

// fairTopology applies a fleet of one service, "test", whose class bulk is fair.
func fairTopology(tb testing.TB, js jetstream.JetStream, ackWait time.Duration) {
	tb.Helper()
	bulkTopology(tb, js, ackWait, partitions, "test")
}

// bulkTopology applies a fleet of these services with class bulk alone.
func bulkTopology(tb testing.TB, js jetstream.JetStream, ackWait time.Duration, partitions int, services ...string) {
	tb.Helper()
	fleet := &streams.Fleet{
		AllowShortAckWait: true,
		Classes: []streams.Class{{
			Name: task.Bulk, AckWait: ackWait, TimeLimit: time.Hour, Attempts: 5, MaxDeliver: 3, WaitObjective: time.Hour, Slots: 16,
			Partitions: partitions,
		}},
	}
	for _, name := range services {
		fleet.Services = append(fleet.Services, streams.Service{Name: name, Processes: 4, Classes: []task.Class{task.Bulk}})
	}
	if _, err := streams.Apply(tb.Context(), js, fleet); err != nil {
		tb.Fatal(err)
	}
}

// fair is class bulk as the fleet of fairTopology has it.
func fair(slots int) worker.Option {
	return worker.Serve(worker.Class{Name: task.Bulk, Slots: slots, TimeLimit: time.Hour, Partitions: partitions})
}

// publishFor publishes a task of a tenant; "" is none.
func publishFor(tb testing.TB, js jetstream.JetStream, tenant, id string, args note) {
	tb.Helper()
	body, err := task.Marshal(args)
	if err != nil {
		tb.Fatal(err)
	}
	s := task.Subject{Class: task.Bulk, Service: "test", Action: "note", Tenant: tenant}
	if _, err := js.PublishMsg(tb.Context(), &nats.Msg{Subject: s.String(), Data: body}, jetstream.WithMsgID(id)); err != nil {
		tb.Fatal(err)
	}
}

// inPartition is where the broker puts a tenant.
func inPartition(tenant string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(tenant))
	return int(h.Sum32() % partitions)
}

// tenants returns n tenants beside "crowd", in partitions of their own, or all in
// that of crowd.
func tenants(n int, shared bool) (out []string) {
	used := []int{inPartition("crowd")}
	for i := 0; len(out) < n; i++ {
		name := "tenant" + strconv.Itoa(i)
		switch p := inPartition(name); {
		case shared && p == used[0]:
			out = append(out, name)
		case !shared && !slices.Contains(used, p):
			out, used = append(out, name), append(used, p)
		}
	}
	return out
}

// A tenant with many tasks does not keep another waiting: ten tasks of that one
// start within 2·d·⌈10/S⌉ and 100 ms, while those of the first take d each on S
// slots. They do so whether the slots become free together or one after the other,
// and whether the broker was asked for the other's tasks lately or long before.
func TestTenantsInTurn(t *testing.T) {
	for _, tt := range []struct {
		name      string
		slots     int
		d         time.Duration
		staggered bool // the crowd's tasks end one after the other
	}{
		{name: "one slot", slots: 1, d: time.Second},
		{name: "few slots", slots: 4, d: time.Second},
		{name: "few slots, one after the other", slots: 4, d: time.Second, staggered: true},
		{name: "many slots", slots: 16, d: time.Second},
		{name: "many slots, long tasks", slots: 16, d: time.Minute},
		{name: "many slots, one after the other", slots: 16, d: 20 * time.Second, staggered: true},
		{name: "short tasks", slots: 16, d: 20 * time.Millisecond},
		{name: "tiny tasks", slots: 4, d: time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				took := crowded(t, js, tt.slots, tt.d, tt.staggered, tenants(1, false)[0])
				rounds := (10 + tt.slots - 1) / tt.slots
				if limit := 2*tt.d*time.Duration(rounds) + 100*time.Millisecond; took > limit {
					t.Errorf("all ten of the other tenant started after %v, want at most %v", took, limit)
				} else {
					t.Logf("all ten of the other tenant started after %v of at most %v", took, limit)
				}
			})
		})
	}
}

// Tenants that share a partition share its turn: the other's tasks come after those
// that were there before. A task without a tenant has a turn of its own.
func TestSharedPartition(t *testing.T) {
	for name, tenant := range map[string]string{"shared": tenants(1, true)[0], "no tenant": ""} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				took := crowded(t, js, 4, time.Second, false, tenant)
				t.Logf("all ten started after %v", took)
				if waits := took > 100*time.Second; waits != (tenant != "") {
					t.Errorf("all ten of %q started after %v, and a crowd of 600 tasks takes 150 s, one of 10,000 42 min", tenant, took)
				}
			})
		})
	}
}

// crowded has a tenant with 600 tasks, or 10,000, and in the midst of those ten of another one.
// It returns how long after their publish the last of the ten started.
func crowded(t *testing.T, js jetstream.JetStream, slots int, d time.Duration, staggered bool, other string) time.Duration {
	t.Helper()
	fairTopology(t, js, ackWait)
	var mu sync.Mutex
	var begun []time.Time
	n := 0
	all := make(chan struct{})
	_, stop := start(t, js, func(w *worker.Worker) {
		worker.Handle(w, func(ctx context.Context, _ note) error {
			info, _ := task.FromContext(ctx)
			mu.Lock()
			n++
			first := n <= slots
			if info.Tenant == other {
				if begun = append(begun, time.Now()); len(begun) == 10 {
					close(all)
				}
			}
			share := float64(n) / float64(slots)
			mu.Unlock()
			took := d
			if staggered && first {
				took += time.Duration(share * float64(d))
			}
			select {
			case <-time.After(took):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}, fair(slots), worker.DrainLimit(0))
	crowd := 600
	if *whole {
		crowd = 10_000
	}
	for i := range crowd {
		publishFor(t, js, "crowd", fmt.Sprint("crowd", i), note{})
	}
	time.Sleep(5*d + d/3)
	for i := range 10 {
		publishFor(t, js, other, fmt.Sprint("other", i), note{})
	}
	published := time.Now()
	<-all
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	return begun[9].Sub(published)
}

// Nine tenants with a backlog each get as many turns as the others, and one that has
// nothing takes nothing from them.
func TestTurnsAreEqual(t *testing.T) {
	for _, tt := range []struct {
		name  string
		d     time.Duration
		slots int
		ahead int // of another tenant, in tasks
	}{
		{"few slots", time.Second, 3, 3},
		{"many slots", time.Second, 16, 10},     // of 480 that all have
		{"tiny tasks", time.Millisecond, 3, 10}, // which are pulled ahead, several at a time
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				fairTopology(t, js, ackWait)
				of := append(tenants(partitions-2, false), "crowd", "")
				for _, tenant := range of {
					for i := range 60 {
						publishFor(t, js, tenant, tenant+"-"+strconv.Itoa(i), note{})
					}
				}
				var mu sync.Mutex
				runs := map[string]int{}
				most := 0 // between the one that has run most and the one that has run least, while all have tasks
				_, stop := start(t, js, func(w *worker.Worker) {
					worker.Handle(w, func(ctx context.Context, _ note) error {
						info, _ := task.FromContext(ctx)
						mu.Lock()
						runs[info.Tenant]++
						low, high := 60, 0
						for _, tenant := range of {
							low, high = min(low, runs[tenant]), max(high, runs[tenant])
						}
						if high < 60 {
							most = max(most, high-low)
						}
						mu.Unlock()
						time.Sleep(tt.d)
						return nil
					})
				}, fair(tt.slots))
				began := time.Now()
				for done := 0; done < 60*len(of); {
					time.Sleep(time.Second)
					mu.Lock()
					done = 0
					for _, n := range runs {
						done += n
					}
					mu.Unlock()
				}
				if took, least := time.Since(began), tt.d*time.Duration(60*len(of)/tt.slots); took > least+2*time.Second {
					t.Errorf("all are done after %v, want %v: slots were free while tasks waited", took, least)
				}
				if most > tt.ahead {
					t.Errorf("one tenant was %d tasks ahead of another, want at most %d", most, tt.ahead)
				}
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				empty(t, js, "TASKS_BULK", "RETRY", "DEAD")
			})
		})
	}
}

// An idle fair lane asks for each partition every 5 s, where a plain lane asks every
// 2 s; and one whose slots are taken asks for nothing and holds at most one task of
// each source beyond them.
func TestFairLaneAsksLittle(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		fairTopology(t, js, ackWait)
		pulls, err := js.Conn().SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.TASKS_BULK.>")
		if err != nil {
			t.Fatal(err)
		}
		counted := func() int {
			n, _, err := pulls.Pending()
			if err != nil {
				t.Fatal(err)
			}
			for range n {
				if _, err := pulls.NextMsgWithContext(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			return n
		}
		release := make(chan struct{})
		w, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error { <-release; return nil })
		}, fair(4))
		time.Sleep(10 * time.Second)
		counted()
		time.Sleep(100 * time.Second)
		if n := counted(); n > 9*20 {
			t.Errorf("%d pulls of an idle lane in 100 s, want at most %d", n, 9*20)
		}
		of := append(tenants(partitions-1, false), "crowd")
		for i := range 20 {
			for _, tenant := range of {
				publishFor(t, js, tenant, tenant+strconv.Itoa(i), note{})
			}
		}
		time.Sleep(10 * time.Second)
		counted()
		time.Sleep(20 * time.Second)
		if n := counted(); n > 0 {
			t.Errorf("%d pulls of a lane whose slots are taken, want none", n)
		}
		if held := w.Status().Lanes[0].Held; held > 4+len(of) {
			t.Errorf("%d tasks are held on 4 slots, want at most one more for each of %d partitions", held, len(of))
		}
		close(release)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// Every shape of subject that a fair class accepts is handed to a worker, with the
// kind and tenant that it was published with; every other is refused at publish.
func TestFairSubjects(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fairTopology(t, js, ackWait)
	type seen struct{ ID, Tenant string }
	ran := make(chan seen, 100)
	_, stop := start(t, js, func(w *worker.Worker) {
		worker.Handle(w, func(ctx context.Context, _ note) error {
			info, _ := task.FromContext(ctx)
			ran <- seen{info.ID, info.Tenant}
			return nil
		})
	}, fair(4))
	for _, tt := range []struct {
		subject string
		refused bool
		bad     bool // accepted, and a dead letter: it is no subject of a task
		tenant  string
	}{
		{subject: "tasks.bulk.test.note"},
		{subject: "tasks.bulk.test.note.acme", tenant: "acme"},
		{subject: "tasks.bulk.test.note.3", tenant: "3"},
		{subject: "tasks.bulk.test.note.a-b_C9", tenant: "a-b_C9"},
		{subject: "tasks.bulk.test.note.acme.3", refused: true},
		{subject: "tasks.bulk.test.note.acme.x.y", refused: true},
		{subject: "tasks.bulk.test", refused: true},
		{subject: "tasks.bulk.test.", refused: true},
		{subject: "tasks.bulk.test.note.", refused: true},
		{subject: "tasks.bulk.test..acme", refused: true},
		{subject: "tasks.bulk.other.note", refused: true},
		{subject: "tasks.bulk.test.no$te", bad: true},
		{subject: "tasks.bulk.test.*", bad: true},
		{subject: "tasks.bulk.test.>", bad: true},
		{subject: "tasks.bulk.test.note.*", bad: true},
		{subject: "tasks.bulk.test.note.>", bad: true},
		{subject: "tasks.bulk.test.note.ü", bad: true},
		{subject: "tasks.bulk.test.{{wildcard(1)}}.{{partition(8,3)}}", bad: true},
	} {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: tt.subject}, jetstream.WithMsgID(tt.subject), jetstream.WithRetryAttempts(0))
		if (err != nil) != tt.refused {
			t.Errorf("publish to %s = %v, want refused: %v", tt.subject, err, tt.refused)
		}
		switch {
		case tt.refused:
		case tt.bad:
			until(t, 10*time.Second, "a dead letter of "+tt.subject, func() bool {
				return slices.ContainsFunc(letters(t, js), func(m *jetstream.RawStreamMsg) bool {
					return m.Header.Get(task.HeaderID) == tt.subject && m.Header.Get(task.HeaderSubject) == tt.subject &&
						m.Header.Get(task.HeaderReason) == string(task.Undecodable)
				})
			})
		default:
			select {
			case got := <-ran:
				if want := (seen{tt.subject, tt.tenant}); got != want {
					t.Errorf("published to %s, ran %+v, want %+v", tt.subject, got, want)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("published to %s: no worker got it", tt.subject)
			}
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	empty(t, js, "TASKS_BULK", "RETRY")
}
