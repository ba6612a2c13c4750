package service_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// processEnv makes this test binary the service of process_test.go, or that of
// labour_test.go.
const processEnv = "SERVICE_TEST_PROCESS"

func TestMain(m *testing.M) {
	switch os.Getenv(processEnv) {
	case "":
	case "labourer":
		service.Main(labourer())
	default:
		service.Main(waiter())
	}
	for _, v := range os.Environ() { // what the machine sets is not under test
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "DROVER_") {
			_ = os.Unsetenv(name)
		}
	}
	os.Exit(m.Run())
}

const patience = 20 * time.Second // a loaded machine; normally milliseconds

// ping is the kind that these tests run.
type ping struct{}

func (ping) Kind() string { return "email.ping" }

const (
	pingSubject = "tasks.default.email.ping"
	liveStream  = "TASKS_DEFAULT"
)

// pinger is a service that runs f for each ping.
func pinger(f func(context.Context, *service.Env) error) service.Service {
	return service.Service{
		Name: "email",
		Run: func(ctx context.Context, env *service.Env) error {
			w, err := worker.New(env.JetStream, env.Service, env.WorkerOptions()...)
			if err != nil {
				return err
			}
			worker.Handle(w, func(ctx context.Context, _ ping) error { return f(ctx, env) })
			return env.Run(ctx, w)
		},
	}
}

// testBroker starts a server that has the topology of the built-in fleet.
func testBroker(tb testing.TB) (url string, js jetstream.JetStream) {
	tb.Helper()
	url, js = natstest.Listen(tb)
	if _, err := streams.Apply(tb.Context(), js, streams.Default()); err != nil {
		tb.Fatal(err)
	}
	return url, js
}

func publish(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	if _, err := js.Publish(tb.Context(), pingSubject, nil); err != nil {
		tb.Fatal(err)
	}
}

// pending is how many messages the stream holds.
func pending(tb testing.TB, js jetstream.JetStream, stream string) uint64 {
	tb.Helper()
	s, err := js.Stream(tb.Context(), stream)
	if err != nil {
		tb.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// running is a service that runs in this process.
type running struct {
	log  *journal
	stop context.CancelFunc
	err  func() error // waits for its end
}

// start runs s with a JSON log until the test ends.
func start(tb testing.TB, s service.Service, args ...string) running {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	log := newJournal(tb)
	ended := make(chan error, 1)
	go func() {
		ended <- service.Run(ctx, s, append([]string{"--log-format=json", "--log-level=debug"}, args...), io.Discard, log)
	}()
	r := running{log: log, stop: cancel, err: sync.OnceValue(func() error { return <-ended })}
	tb.Cleanup(func() {
		cancel()
		_ = r.err() // looked at by the test, if it matters there
	})
	return r
}

// journal collects the JSON log lines of a service for wait. Lines that are no
// JSON are shown with the test.
type journal struct {
	tb   testing.TB
	mu   sync.Mutex
	rest []byte
	all  []map[string]any
	more chan struct{} // closed when all has grown, and replaced
}

func newJournal(tb testing.TB) *journal {
	tb.Helper()
	return &journal{tb: tb, more: make(chan struct{})}
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rest = append(j.rest, p...)
	for {
		line, rest, ok := bytes.Cut(j.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		j.rest = rest
		record := map[string]any{}
		if json.Unmarshal(line, &record) != nil {
			record[slog.MessageKey] = string(line)
		}
		j.all = append(j.all, record)
		close(j.more)
		j.more = make(chan struct{})
	}
}

// wait returns the n-th record with this message, counted from 1, as soon as it
// is there.
func (j *journal) wait(n int, msg string) map[string]any {
	j.tb.Helper()
	late := time.After(patience)
	for {
		j.mu.Lock()
		more, found := j.more, 0
		for _, r := range j.all {
			if r[slog.MessageKey] == msg {
				if found++; found == n {
					j.mu.Unlock()
					return r
				}
			}
		}
		j.mu.Unlock()
		select {
		case <-more:
		case <-late:
			j.tb.Fatalf("the service did not log %q %d times; it logged:\n%s", msg, n, j)
		}
	}
}

// count is how many records have this message now.
func (j *journal) count(msg string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.all {
		if r[slog.MessageKey] == msg {
			n++
		}
	}
	return n
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for _, r := range j.all {
		line, _ := json.Marshal(r) // it was JSON before
		b.Write(append(line, '\n'))
	}
	return b.String()
}

// admin waits for the admin port and returns a function that reads a path of it.
func (j *journal) admin() func(path string) (status int, body string) {
	j.tb.Helper()
	addr, _ := j.wait(1, "admin port is open")["addr"].(string)
	return func(path string) (int, string) {
		j.tb.Helper()
		req, err := http.NewRequestWithContext(j.tb.Context(), http.MethodGet, "http://"+addr+path, http.NoBody)
		if err != nil {
			j.tb.Fatal(err)
		}
		req.Header.Set("Accept", "application/openmetrics-text")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			j.tb.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(bufio.NewReader(res.Body))
		if err != nil {
			j.tb.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
}
