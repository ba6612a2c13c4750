package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// Environment of a caller, beside envURL and envLedger, which is the API.
const (
	envClass = "TEST_CLASS"
	envOpen  = "TEST_OPEN" // for how long its breakers open; "" is as callerPolicy says
)

const callerSlots = 4

var callerPolicy = breaker.Policy{Failures: 10, Open: time.Second, Probes: 2, Spread: time.Second}

// callerMain is a worker process whose handler calls an HTTP server.
func callerMain() int { return runRole(newCaller) }

func newCaller(js jetstream.JetStream) (*worker.Worker, error) {
	policy, backoff := callerPolicy, time.Second
	if d, err := time.ParseDuration(os.Getenv(envOpen)); err == nil {
		policy.Open, backoff = d, time.Hour // what fails does not come back
	}
	w, err := worker.New(js, "test", worker.Serve(worker.Class{Name: task.Class(os.Getenv(envClass)), Slots: callerSlots, RetrySlots: callerSlots}),
		worker.Logger(slog.New(slog.NewTextHandler(os.Stderr, nil))))
	if err != nil {
		return nil, err
	}
	worker.Handle(w, func(ctx context.Context, n note) error {
		info, _ := task.FromContext(ctx)
		url := fmt.Sprintf("%s/?id=%s&attempt=%d&pid=%d&host=%s", os.Getenv(envLedger), info.ID, info.Attempt, os.Getpid(), n.Text)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			return nil
		case http.StatusTooManyRequests:
			return retry.After(time.Minute, errors.New(resp.Status))
		}
		return errors.New(resp.Status)
	}, worker.Breaker(policy, host), worker.Retry(retry.Policy{Base: backoff, Cap: backoff}))
	return w, nil
}

// api is an API that the callers call: which host they mean is in the request.
type api struct {
	URL string

	mu    sync.Mutex
	calls []apiCall
	dead  map[string]int // status that a host answers instead of 200
}

type apiCall struct {
	host string
	id   string
	pid  int
	at   time.Time
	ok   bool
}

func newAPI(tb testing.TB, dead map[string]int) *api {
	tb.Helper()
	a := &api{dead: dead}
	s := httptest.NewServer(a)
	tb.Cleanup(s.Close)
	a.URL = s.URL
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	pid, _ := strconv.Atoi(r.FormValue("pid")) // 0 is nobody
	a.mu.Lock()
	defer a.mu.Unlock()
	c := apiCall{host: r.FormValue("host"), id: r.FormValue("id"), pid: pid, at: time.Now()}
	status, dead := a.dead[c.host]
	if c.ok = !dead; dead {
		w.WriteHeader(status)
	}
	a.calls = append(a.calls, c)
}

// of are the calls to one host, in their order.
func (a *api) of(host string) []apiCall {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []apiCall
	for _, c := range a.calls {
		if c.host == host {
			out = append(out, c)
		}
	}
	return out
}

func (a *api) mend(host string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.dead, host)
}

// done counts the tasks of a host that succeeded.
func (a *api) done(host string) int {
	ids := map[string]bool{}
	for _, c := range a.of(host) {
		if c.ok {
			ids[c.id] = true
		}
	}
	return len(ids)
}

// callers are processes of one service.
type callers struct {
	broker *natstest.Broker
	js     jetstream.JetStream
	p      []*natstest.Process
	n      int
}

// newCallers starts a process for each class, which it serves alone: so a test
// decides who makes a call.
func newCallers(t *testing.T, a *api, env []string, classes ...task.Class) *callers {
	t.Helper()
	b := natstest.StartBroker(t)
	c := &callers{broker: b, js: b.Connect(t)}
	topology(t, c.js, 2*time.Second)
	for _, class := range classes {
		c.p = append(c.p, natstest.Spawn(t, "caller", append(env, envURL+"="+b.URL, envLedger+"="+a.URL, envClass+"="+string(class))...))
	}
	return c
}

var forAMinute = []string{envOpen + "=1m"}

// call has the process of a class make one more call.
func (c *callers) call(t *testing.T, class task.Class, host string) {
	t.Helper()
	body, err := task.Marshal(note{Text: host})
	if err != nil {
		t.Fatal(err)
	}
	c.n++
	if _, err := c.js.Publish(t.Context(), "tasks."+string(class)+".test.note", body, jetstream.WithMsgID(strconv.Itoa(c.n))); err != nil {
		t.Fatal(err)
	}
}

func (c *callers) stop() { natstest.StopAll(c.p...) }

// What opens in one process holds in another one within a second: by failures, which
// both count, and at the wish of the destination, of which the record alone tells.
func TestBreakerHoldsInOtherProcess(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status int
		calls  int // that open it
	}{
		{"failures", http.StatusServiceUnavailable, callerPolicy.Failures},
		{"asked to wait", http.StatusTooManyRequests, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, map[string]int{"dead": tt.status})
			c := newCallers(t, a, forAMinute, task.Urgent, task.Default)
			for range tt.calls {
				c.call(t, task.Urgent, "dead")
			}
			until(t, 10*time.Second, "one process has made its calls", func() bool { return len(a.of("dead")) >= tt.calls })
			opened := a.of("dead")[tt.calls-1].at
			a.mend("dead") // who does not know that it is open calls it all the time
			well := 0
			for ; time.Since(opened) < 1500*time.Millisecond || well < 50; well++ { // the other one goes on to be asked
				c.call(t, task.Default, "dead")
				c.call(t, task.Default, "well")
				time.Sleep(10 * time.Millisecond)
			}
			until(t, 10*time.Second, "the other host is called", func() bool { return len(a.of("well")) == well })
			held := time.Duration(0)
			for _, call := range a.of("dead")[tt.calls:] {
				if call.pid != c.p[1].PID() {
					t.Errorf("the process that opened it makes a call %v later", call.at.Sub(opened))
				}
				held = max(held, call.at.Sub(opened))
			}
			t.Logf("%d calls of the other process, the last one %v after it opened", len(a.of("dead"))-tt.calls, held.Round(time.Millisecond))
			if held > time.Second {
				t.Errorf("the other process makes a call %v after it opened, want none after 1 s", held)
			}
			c.stop()
		})
	}
}

// Failures of two processes are one count: neither alone has met enough of them.
func TestBreakerOfTwoProcesses(t *testing.T) {
	t.Parallel()
	a := newAPI(t, map[string]int{"dead": http.StatusServiceUnavailable})
	c := newCallers(t, a, forAMinute, task.Urgent, task.Default)
	classes := []task.Class{task.Urgent, task.Default}
	for i := 0; ; i++ {
		before := len(a.of("dead"))
		c.call(t, classes[i%2], "dead")
		// It is called, or it waits: then the record is there.
		until(t, 10*time.Second, "a call is made, or waits", func() bool {
			return len(a.of("dead")) > before || records(t, c.js)["dead"].State == breaker.Open
		})
		if len(a.of("dead")) == before {
			break
		}
		time.Sleep(150 * time.Millisecond) // longer than between two tellings
	}
	calls := a.of("dead")
	if n := len(calls); n < callerPolicy.Failures || n > callerPolicy.Failures+1 { // one told late
		t.Errorf("%d calls of two processes reached the dead host, want %d", n, callerPolicy.Failures)
	}
	if r := records(t, c.js)["dead"]; !strings.HasPrefix(r.Reason, fmt.Sprintf("%d of %d calls failed", len(calls), len(calls))) {
		t.Errorf("it is open because %q, want the count of both processes, %d", r.Reason, len(calls))
	}
	pids := map[int]int{}
	for _, call := range calls {
		pids[call.pid]++
	}
	if len(pids) != 2 || slices.Max([]int{pids[c.p[0].PID()], pids[c.p[1].PID()]}) >= callerPolicy.Failures {
		t.Errorf("calls by process: %v, want both, and neither %d", pids, callerPolicy.Failures)
	}
	c.stop()
}

// An API is dead for hundreds of tasks of two processes: what reaches it is bounded,
// also while the broker is out of reach; the other API is called meanwhile;
// and all of it recovers by itself.
func TestBreakerOfFleet(t *testing.T) {
	t.Parallel()
	const tasks, others = 500, 100
	a := newAPI(t, map[string]int{"dead": http.StatusServiceUnavailable})
	c := newCallers(t, a, nil, task.Default, task.Default)
	for range tasks {
		c.call(t, task.Default, "dead")
	}
	for range others {
		c.call(t, task.Default, "well")
	}
	began := time.Now()
	until(t, 20*time.Second, "it is open and probed, and the other host is called", func() bool {
		return len(a.of("dead")) > callerPolicy.Failures && a.done("well") == others && time.Since(began) > 2500*time.Millisecond
	})
	c.broker.Kill()
	killed := time.Now()
	time.Sleep(outage())
	c.broker.Restart(t)
	restarted := time.Now()
	time.Sleep(3 * time.Second)

	// Each process may open on its own, with what it has in flight, and without the
	// broker each probes on its own.
	bound := func(d time.Duration) int {
		return 2*callerPolicy.Probes*(int(d/callerPolicy.Open)+1) + 2*callerSlots*2
	}
	var before, meanwhile, after int
	for _, call := range a.of("dead") {
		switch {
		case call.at.Before(killed):
			before++
		case call.at.Before(restarted):
			meanwhile++
		default:
			after++
		}
	}
	t.Logf("calls that reached the dead API: %d in %v, %d in %v without the broker, %d in 3 s after that",
		before, killed.Sub(began).Round(time.Second), meanwhile, restarted.Sub(killed).Round(time.Second), after)
	for _, x := range []struct {
		when        string
		calls, most int
	}{
		{"before the broker is killed", before, 2*callerPolicy.Failures + bound(killed.Sub(began))},
		{"without the broker", meanwhile, bound(restarted.Sub(killed))},
		{"in 3 s afterwards", after, bound(3 * time.Second)},
	} {
		if x.calls > x.most {
			t.Errorf("%s %d calls reach the dead API, want at most %d", x.when, x.calls, x.most)
		}
	}
	a.mend("dead")
	until(t, 30*time.Second, "all tasks are done once it is mended", func() bool { return a.done("dead") == tasks })
	c.stop()
	if dead := letters(t, c.js); len(dead) > 0 {
		t.Errorf("%d dead letters, want none: no attempt is burned for waiting", len(dead))
	}
}
