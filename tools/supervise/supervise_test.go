package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/broker/embed"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/supervise"
)

func TestMain(m *testing.M) {
	natstest.Main(m, map[string]func() int{"child": childMain, "supervisor": supervisorMain})
}

const fleetFile = `allow_short_ack_wait: true
classes:
  - {name: default, ack_wait: 2s, time_limit: 60s, attempts: 5, max_deliver: 3, wait_objective: 5s, slots: 8, max_bytes: 16MiB}
services:
  - {name: work, classes: [default]}
  - {name: broken, classes: [default]}
dead: {max_bytes: 16MiB}
bodies: {max_bytes: 16MiB}
`

const patience = 20 * time.Second // a loaded machine; normally well under a second

type note struct {
	Do string `msgpack:"do"`
}

func (note) Kind() string { return "work.note" }

// exitUsage is the exit code of a process that was configured wrongly.
const exitUsage = 78

// childMain is what the supervisor under test starts: `<test binary> run <service>`.
func childMain() int {
	supervise.EndWithParent()
	if os.Args[2] == "broken" {
		fmt.Fprintln(os.Stderr, "broken: wrong usage: there is no such thing\nRun \"broken --help\" for all flags.")
		code, err := strconv.Atoi(os.Getenv("TEST_EXIT"))
		if err != nil {
			return exitUsage
		}
		return code
	}
	return service.Exec(context.Background(), service.Service{Name: "work", Run: func(ctx context.Context, env *service.Env) error {
		w, err := worker.New(env.JetStream, "work", env.WorkerOptions()...)
		if err != nil {
			return err
		}
		worker.Handle(w, func(ctx context.Context, n note) error {
			switch n.Do {
			case "warn":
				env.Log.WarnContext(ctx, "something is odd", slog.String("what", "a b"), slog.Any("error", errors.New("too odd")))
			case "crash":
				crash := make(chan struct{})
				go func() {
					defer close(crash)
					_, _ = fmt.Fprint(os.Stderr, "half a line")
					panic("no worker recovers this")
				}()
				<-crash
			case "hang":
				<-ctx.Done()
				select {}
			}
			return nil
		})
		return env.Run(ctx, w)
	}}, os.Args[3:], os.Stdout, os.Stderr)
}

// supervisorMain is a supervisor for tests to kill. It prints the processes that
// it has started.
func supervisorMain() int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	fleet, err := streams.Load(os.Getenv("TEST_FLEET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s, err := supervise.Start(context.Background(), supervise.Config{
		Dir: os.Getenv("TEST_DIR"), Port: -1, Fleet: fleet, FleetFile: os.Getenv("TEST_FLEET"), Scale: map[string]int{"work": 2, "broken": 0},
		Command: []string{exe, "run"}, Env: []string{"DROVER_TEST_ROLE=child"},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := s.WaitReady(context.Background()); err != nil {
		return 1
	}
	all := s.Processes()
	fmt.Println("ready", all[0].PID, all[1].PID)
	select {}
}

// journal collects events.
type journal struct {
	mu  sync.Mutex
	all []supervise.Event
	add chan struct{} // closed when there is one more, and replaced
}

func newJournal() *journal { return &journal{add: make(chan struct{})} }

func (j *journal) event(e supervise.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all = append(j.all, e)
	close(j.add)
	j.add = make(chan struct{})
}

// wait returns the first event with that text in it.
func (j *journal) wait(t *testing.T, text string) supervise.Event {
	t.Helper()
	late := time.After(patience)
	for {
		j.mu.Lock()
		more, all := j.add, j.all
		j.mu.Unlock()
		for _, e := range all {
			if strings.Contains(e.Text, text) {
				return e
			}
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("no event says %q; there are: %+v", text, all)
		}
	}
}

func writeFleet(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(path, []byte(fleetFile), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// config is a fleet of two processes of service work.
func config(t *testing.T) supervise.Config {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := writeFleet(t)
	fleet, err := streams.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return supervise.Config{
		Dir: t.TempDir(), Port: -1, Fleet: fleet, FleetFile: path, Scale: map[string]int{"work": 2, "broken": 0},
		Command: []string{exe, "run"}, Env: []string{"DROVER_TEST_ROLE=child"}, Drain: 5 * time.Second,
	}
}

func start(t *testing.T, c supervise.Config) *supervise.Supervisor {
	t.Helper()
	s, err := supervise.Start(t.Context(), c)
	if err != nil {
		t.Fatalf("Start() = %v", err)
	}
	return s
}

func ready(t *testing.T, s *supervise.Supervisor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.WaitReady(ctx); err != nil {
		t.Fatalf("WaitReady() = %v", err)
	}
}

func stop(t *testing.T, s *supervise.Supervisor) {
	t.Helper()
	pids := map[string]int{}
	for _, p := range s.Processes() {
		pids[p.Name] = p.PID
	}
	if err := s.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("Stop() = %v", err)
	}
	for name, pid := range pids {
		if pid != 0 && alive(pid) {
			t.Errorf("%s (%d) still runs after Stop", name, pid)
		}
	}
}

func publish(t *testing.T, js jetstream.JetStream, do ...string) {
	t.Helper()
	c, err := client.New(js)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range do {
		if _, err := c.Publish(t.Context(), note{Do: d}); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits for something that is announced by nobody.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.Now().Add(patience); !ok(); {
		if time.Now().After(late) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// alive reports whether a process runs. One that has ended and that nobody has
// waited for does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // no /proc here
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

func waiting(t *testing.T, s *supervise.Supervisor) (depth uint64, inFlight int) {
	t.Helper()
	st := s.State(t.Context(), 0)
	if st.Err != nil {
		t.Fatalf("State() = %v", st.Err)
	}
	for _, l := range st.Lanes {
		depth, inFlight = depth+l.Depth, inFlight+l.InFlight
	}
	return depth, inFlight
}

// Tasks that are left when a fleet stops run when it is started again on the same
// folder.
func TestStateSurvivesRestart(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Scale["work"] = 0
	s := start(t, c)
	publish(t, s.JetStream(), "", "", "")
	eventually(t, "all three wait, with no process of the service", func() bool { // the broker counts them after it has confirmed them
		depth, _ := waiting(t, s)
		return depth == 3
	})
	stop(t, s)

	c.Scale["work"] = 2
	begun := time.Now()
	s = start(t, c)
	ready(t, s)
	t.Logf("ready in %v", time.Since(begun).Round(time.Millisecond))
	if got := len(s.Processes()); got != 2 {
		t.Errorf("%d processes, want 2", got)
	}
	eventually(t, "the tasks are worked", func() bool {
		depth, inFlight := waiting(t, s)
		return depth == 0 && inFlight == 0
	})
	stop(t, s)
}

func TestWarningsAreShownCalmly(t *testing.T) {
	t.Parallel()
	c := config(t)
	j := newJournal()
	c.Events, c.Scale["work"] = j.event, 1
	s := start(t, c)
	ready(t, s)
	publish(t, s.JetStream(), "warn", "warn", "warn")
	e := j.wait(t, "something is odd")
	if !strings.HasPrefix(e.Text, "something is odd what=a b: too odd") || e.Process != "work-1" || e.Kind != supervise.Logged {
		t.Errorf("event = %+v", e)
	}
	log := s.Processes()[0].Log
	eventually(t, "all three are in the log", func() bool {
		b, err := os.ReadFile(log)
		return err == nil && strings.Count(string(b), "something is odd") == 3
	})
	stop(t, s)
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.all) != 1 {
		t.Errorf("%d events for one message: %+v", len(j.all), j.all)
	}
}

func TestStateFolderInUse(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Scale["work"] = 0
	s := start(t, c)
	_, err := supervise.Start(t.Context(), c)
	if !errors.Is(err, supervise.ErrInUse) {
		t.Fatalf("second Start() = %v, want ErrInUse", err)
	}
	for _, want := range []string{strconv.Itoa(os.Getpid()), c.Dir, "--state"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("second Start() = %v, want %q in it", err, want)
		}
	}
	stop(t, s)
	s = start(t, c)
	stop(t, s)
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	url, _ := natstest.Listen(t)
	c := config(t)
	var err error
	if c.Port, err = strconv.Atoi(url[strings.LastIndexByte(url, ':')+1:]); err != nil {
		t.Fatal(err)
	}
	_, err = supervise.Start(t.Context(), c)
	if !errors.Is(err, embed.ErrPortTaken) || !strings.Contains(err.Error(), "by another nats-server") || !strings.Contains(err.Error(), "--port") {
		t.Errorf("Start() = %v, want ErrPortTaken, who has it, and what to do", err)
	}
}

func TestScaleOfAnUnknownService(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Scale = map[string]int{"emial": 2}
	_, err := supervise.Start(t.Context(), c)
	if err == nil || err.Error() != "scale emial: the fleet file has no such service, only work, broken" {
		t.Errorf("Start() = %v", err)
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Admin, c.Scale["work"] = "127.0.0.1:0", 1
	s := start(t, c)
	ready(t, s)
	publish(t, s.JetStream(), "hang")
	eventually(t, "the task runs", func() bool { _, n := waiting(t, s); return n == 1 })
	for _, test := range []struct{ path, want string }{
		{"/healthz", "alive"},
		{"/readyz", "ready"},
		{"/metrics", `drover_lane_depth{task_class="default",task_lane="live",task_service="work"} 0`},
		{"/metrics", `drover_lane_oldest_age_seconds{task_class="default",task_lane="live",task_service="work"} `},
	} {
		res, err := http.Get("http://" + s.Admin() + test.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK || !strings.Contains(string(body), test.want) {
			t.Errorf("GET %s = %d %s, want %q in it", test.path, res.StatusCode, body, test.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); err == nil {
		t.Error("Stop() = nil although a task hangs")
	}
}
