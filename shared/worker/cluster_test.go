package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// ride is a fleet on three nodes under load, and what became of every task.
type ride struct {
	c  *natstest.Cluster
	js jetstream.JetStream // of the test itself

	spans *tracetest.SpanRecorder
	mu    sync.Mutex
	taken map[string]bool          // ids that were acknowledged to their publisher
	runs  map[trace.SpanID]rideRun // by the span of the attempt
	ended map[string]int           // runs that ended well, by id

	over chan struct{} // closed when nothing is to sleep any longer
}

// rideRun is one run of a handler.
type rideRun struct {
	id      string
	attempt int
	err     error // why its context was cancelled
}

// newRide starts a cluster with the topology of one class, three replicas of each.
func newRide(t *testing.T, ackWait time.Duration) *ride {
	t.Helper()
	r := &ride{
		c: natstest.StartCluster(t), spans: tracetest.NewSpanRecorder(),
		taken: map[string]bool{}, runs: map[trace.SpanID]rideRun{}, ended: map[string]int{}, over: make(chan struct{}),
	}
	r.js = r.c.Connect(t)
	fleet := &streams.Fleet{
		Replicas: natstest.Nodes, AllowShortAckWait: true,
		Services: []streams.Service{{Name: "test", Processes: 4, Classes: []task.Class{task.Default}}},
		Classes: []streams.Class{{
			Name: task.Default, AckWait: ackWait, TimeLimit: time.Minute, Attempts: 5, MaxDeliver: 3, WaitObjective: time.Second, Slots: 32,
		}},
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := streams.Apply(ctx, r.js, fleet); err != nil {
		t.Fatal(err)
	}
	r.c.Wait(t)
	return r
}

// connect is a service's connection that prefers node i.
func (r *ride) connect(t *testing.T, i int) jetstream.JetStream {
	t.Helper()
	urls := []string{r.c.Nodes[i].URL}
	for j, n := range r.c.Nodes {
		if j != i {
			urls = append(urls, n.URL)
		}
	}
	js, err := broker.Connect(t.Context(), broker.Options{
		URL: strings.Join(urls, ","), Wait: 10 * time.Second,
		Logger: slog.New(slog.DiscardHandler), Extra: []nats.Option{nats.DontRandomize()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(js.Conn().Close)
	return js
}

// work starts a worker on node i.
func (r *ride) work(t *testing.T, i int) *worker.Worker {
	t.Helper()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r.spans))
	w, _ := start(t, r.connect(t, i), func(w *worker.Worker) {
		worker.Handle(w, r.handle, worker.Retry(retry.Policy{Base: time.Second, Cap: time.Second}))
	}, worker.TracerProvider(provider))
	until(t, 30*time.Second, "the worker is ready", func() bool { return w.Ready() == nil })
	return w
}

func (r *ride) handle(ctx context.Context, n note) error {
	info, _ := task.FromContext(ctx)
	span := trace.SpanFromContext(ctx).SpanContext().SpanID()
	r.mu.Lock()
	r.runs[span] = rideRun{id: info.ID, attempt: info.Attempt}
	r.mu.Unlock()
	verb, arg, _ := strings.Cut(n.Text, " ")
	d, _ := time.ParseDuration(arg) // 0 without
	select {
	case <-time.After(d):
	case <-r.over:
	case <-ctx.Done():
		r.mu.Lock()
		defer r.mu.Unlock()
		r.runs[span] = rideRun{id: info.ID, attempt: info.Attempt, err: context.Cause(ctx)}
		return ctx.Err()
	}
	if verb == "fail-once" && info.Attempt == 0 {
		return errors.New("the first attempt fails")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[info.ID]++
	return nil
}

// load publishes until the function that it returns is called: about 100 tasks/s
// from each of the nodes, some in one call for many. A publish must ride through
// whatever happens.
func (r *ride) load(t *testing.T, nodes ...int) (stop func()) {
	t.Helper()
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for _, i := range nodes {
		c, err := client.New(r.connect(t, i))
		if err != nil {
			t.Fatal(err)
		}
		each := func(every time.Duration, publish func(n int) error) {
			wg.Go(func() {
				tick := time.NewTicker(every)
				defer tick.Stop()
				for n := 0; ; n++ {
					select {
					case <-ended:
						return
					case <-tick.C:
					}
					if err := publish(n); err != nil {
						t.Errorf("publish on node %d: %v", i, err)
					}
				}
			})
		}
		for range 5 { // as one that waits for an election publishes nothing
			each(100*time.Millisecond, func(n int) error {
				rc, err := c.Publish(t.Context(), note{Text: rideText(n)})
				if err == nil {
					r.take(rc)
				}
				return err
			})
		}
		each(time.Second, func(int) error {
			notes := make([]note, 50)
			for k := range notes {
				notes[k].Text = rideText(k)
			}
			out, err := client.PublishAll(t.Context(), c, notes)
			for _, o := range out {
				if o.Err == nil {
					r.take(o.Receipt)
				}
			}
			return err
		})
	}
	return func() {
		close(ended)
		wg.Wait()
	}
}

// rideText mixes tasks that are done at once, that take time, and that fail.
func rideText(n int) string {
	switch n % 10 {
	case 3:
		return "fail-once"
	case 6:
		return "sleep 50ms"
	default:
		return "ok"
	}
}

func (r *ride) take(rc client.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken[rc.ID] = true
}

// finish waits until every task has come to its end, and checks that none is lost,
// that none is dead, and that each run beyond the first of an attempt is of a
// message that the broker has delivered again.
func (r *ride) finish(t *testing.T, limit time.Duration) {
	t.Helper()
	left := 0
	done := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		left = 0
		for id := range r.taken {
			if r.ended[id] == 0 {
				left++
			}
		}
		return left == 0
	}
	for deadline := time.Now().Add(limit); !done() && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if left > 0 {
		t.Errorf("%d of %d acknowledged tasks have not come to their end within %v", left, len(r.taken), limit)
	}
	// What is still stored has run: its acknowledgement was lost, and it comes
	// back with the next delivery.
	until(t, limit, "the streams are empty", func() bool {
		for _, name := range []string{"TASKS_DEFAULT", "RETRY"} {
			s, err := r.js.Stream(t.Context(), name)
			if err != nil || s.CachedInfo().State.Msgs > 0 {
				return false
			}
		}
		return true
	})
	empty(t, r.js, "DEAD")
	r.explain(t)
}

// explain fails the test for a run that has no reason.
func (r *ride) explain(t *testing.T) {
	t.Helper()
	type attempt struct {
		id string
		n  int
	}
	type delivery struct {
		stream           string
		sequence, deaths int64
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	runs := map[attempt][]delivery{}
	for _, s := range r.spans.Ended() {
		run, ok := r.runs[s.SpanContext().SpanID()]
		if !ok {
			continue
		}
		var d delivery
		for _, kv := range s.Attributes() {
			switch kv.Key {
			case telemetry.MessagingDestination:
				d.stream = kv.Value.AsString()
			case telemetry.MessagingSequence:
				d.sequence = kv.Value.AsInt64()
			case telemetry.TaskDeaths:
				d.deaths = kv.Value.AsInt64()
			}
		}
		runs[attempt{run.id, run.attempt}] = append(runs[attempt{run.id, run.attempt}], d)
	}
	extra, n := 0, 0
	for a, ds := range runs {
		n += len(ds)
		slices.SortFunc(ds, func(x, y delivery) int { return int(x.deaths - y.deaths) })
		for i, d := range ds[1:] {
			extra++
			if d.stream != ds[0].stream || d.sequence != ds[0].sequence || d.deaths <= ds[i].deaths {
				t.Errorf("attempt %d of task %s ran without a redelivery: %+v", a.n, a.id, ds)
			}
		}
	}
	t.Logf("%d tasks acknowledged to their publishers, %d runs, %d of them extra", len(r.taken), n, extra)
}

// long publishes tasks that run until r.over is closed, over so long that their
// extensions are due at different times, and returns their ids.
func (r *ride) long(t *testing.T) (ids []string) {
	t.Helper()
	c, err := client.New(r.js)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		rc, err := c.Publish(t.Context(), note{Text: "sleep 1h"})
		if err != nil {
			t.Fatal(err)
		}
		r.take(rc)
		ids = append(ids, rc.ID)
		r.more(t, 80, 30*time.Second) // about 0.4 s
	}
	return ids
}

// uncancelled fails the test when one of the tasks was cancelled or ran twice.
func (r *ride) uncancelled(t *testing.T, ids []string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := map[string]int{}
	for _, run := range r.runs {
		if n[run.id]++; run.err != nil && slices.Contains(ids, run.id) {
			t.Errorf("a task that ran through the election was cancelled: %v", run.err)
		}
	}
	for _, id := range ids {
		if n[id] != 1 {
			t.Errorf("a task that ran through the election ran %d times", n[id])
		}
	}
}

// leaders are the nodes that lead what the load is on.
func (r *ride) leaders(t *testing.T) (stream, consumer int) {
	t.Helper()
	until(t, 30*time.Second, "stream and consumer have leaders", func() bool {
		stream, consumer = r.c.Leader(t, r.js, "TASKS_DEFAULT"), r.c.ConsumerLeader(t, r.js, "TASKS_DEFAULT", "test")
		return stream >= 0 && consumer >= 0
	})
	return stream, consumer
}

// more waits until that many more tasks have ended.
func (r *ride) more(t *testing.T, n int, limit time.Duration) {
	t.Helper()
	count := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.ended)
	}
	from := count()
	until(t, limit, fmt.Sprintf("%d more tasks end", n), func() bool { return count() >= from+n })
}

// fleetAckWait is the shortest that a fleet may have: a lease has to survive an
// election.
const fleetAckWait = 20 * time.Second

// The node that leads the stream is killed, with a worker and a publisher on it:
// nothing that was acknowledged is lost, no publish fails, a task that runs
// through the election keeps its lease, and what runs twice was delivered twice.
func TestNodeKilledUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRide(t, fleetAckWait)
	leader, _ := r.leaders(t)
	other := (leader + 1) % natstest.Nodes
	r.work(t, leader)
	r.work(t, other)
	stop := r.load(t, leader, other)
	r.more(t, 200, 30*time.Second)
	longs := r.long(t)
	killed := time.Now()
	r.c.Nodes[leader].Kill()
	r.more(t, 500, 30*time.Second)
	t.Logf("500 tasks have ended %v after the kill", time.Since(killed).Round(time.Millisecond))
	close(r.over) // not before: there would be nobody to acknowledge them to
	r.c.Nodes[leader].Restart(t)
	r.c.Wait(t)
	stop()
	r.finish(t, fleetAckWait+20*time.Second)
	r.uncancelled(t, longs)
}

// The leader is stopped for eight seconds, so that another is elected, and then
// goes on: it does not know at first that it is not the leader any more.
func TestLeaderPausedUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRide(t, fleetAckWait)
	leader, _ := r.leaders(t)
	other := (leader + 1) % natstest.Nodes
	r.work(t, leader)
	r.work(t, other)
	stop := r.load(t, leader, other)
	r.c.Nodes[leader].Pause()
	time.Sleep(8 * time.Second) // the fault itself
	r.c.Nodes[leader].Resume()
	r.more(t, 500, 30*time.Second)
	r.c.Wait(t)
	stop()
	r.finish(t, fleetAckWait+20*time.Second)
}

// An election of 6 to 8 s costs no task two leases: with two deaths to its name it
// would run alone in a child, which this test binary cannot be.
const cutOffAckWait = 10 * time.Second

// A node is cut off from the others for a while, and its clients stay on it: a
// worker and a publisher whose broker answers pings and nothing else. The others
// go on, and those two do when the node is back.
func TestNodeCutOffUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRide(t, cutOffAckWait)
	w, away, stop := r.cutOff(t)
	r.more(t, 200, 30*time.Second)
	r.c.Mend(away)
	until(t, 30*time.Second, "the worker is ready again", func() bool { return w.Ready() == nil })
	stop()
	r.c.Wait(t)
	r.finish(t, cutOffAckWait+20*time.Second)
}

// cutOff cuts off a node that leads nothing, with a publisher and the worker w on
// it, under load, and returns when w has noticed.
func (r *ride) cutOff(t *testing.T) (w *worker.Worker, away int, stop func()) {
	t.Helper()
	leader := r.c.MetaLeader()
	r.c.Lead(t, r.js, leader)
	away = (leader + 1) % natstest.Nodes
	w = r.work(t, away)
	r.work(t, leader)
	stop = r.load(t, away, leader)
	r.more(t, 200, 30*time.Second)
	r.c.Cut(away)
	until(t, 10*time.Second, "the worker says that its broker does not serve it", func() bool { return w.Ready() != nil })
	return w, away, stop
}
