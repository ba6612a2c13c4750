package bench_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/tools/bench"
)

func small() bench.Config {
	return bench.Config{
		Rounds: 2, Tasks: 300, Single: 20, Start: 50 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	c := small()
	var lines []string
	c.Progress = func(line string) { lines = append(lines, line) }
	r, err := bench.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != 12 || !strings.HasPrefix(lines[0], "warm-up: drain ") || !strings.HasPrefix(lines[11], "round 2 of 2: publish to start ") {
		t.Errorf("progress is\n%s\nwant 4 figures in each of 3 rounds", strings.Join(lines, "\n"))
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	figures := map[string]any{}
	if err := json.Unmarshal(text, &figures); err != nil {
		t.Fatal(err)
	}
	for key, v := range figures {
		if n, ok := v.(float64); ok && n <= 0 {
			t.Errorf("%s = %v, want more than 0", key, n)
		}
	}
	for _, key := range []string{"drain_ratios", "publish_one_ratios", "publish_many_ratios"} {
		if n := len(figures[key].([]any)); n != 2 {
			t.Errorf("%s has %d values, want one for each of 2 rounds", key, n)
		}
	}
	if !r.Embedded || r.Rounds != 2 || r.Tasks != 300 {
		t.Errorf("Run = %+v, want an embedded broker, 2 rounds, 300 tasks", r)
	}
}

// On a broker of somebody else nothing is left behind, also by a run that was
// interrupted, and the stream of another run is not touched.
func TestRunOnBroker(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	c := small()
	c.Broker = &broker.Options{URL: url, Logger: c.Logger}
	r, err := bench.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Embedded {
		t.Error("Embedded = true, want false")
	}
	noStreams(t, js)

	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	c.Progress = func(string) { cancel(enough) }
	if _, err := bench.Run(ctx, c); !errors.Is(err, enough) {
		t.Errorf("Run with a context that ends = %v, want %v", err, enough)
	}
	noStreams(t, js)

	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "TASKS_BENCH", Subjects: []string{"mine"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := bench.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "nats stream rm TASKS_BENCH") {
		t.Errorf("Run beside another one = %v, want an error with the remedy", err)
	}
	if _, err := js.Stream(t.Context(), "TASKS_BENCH"); err != nil {
		t.Errorf("the other's stream: %v", err)
	}
}

func noStreams(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	l := js.StreamNames(t.Context())
	for name := range l.Name() {
		t.Errorf("stream %s is left", name)
	}
	if err := l.Err(); err != nil {
		t.Error(err)
	}
}

func TestMissed(t *testing.T) {
	t.Parallel()
	good := bench.Report{DrainRatio: 0.8, PublishManyRatio: 0.8, PublishOneRatio: 1.1, StartP50: 0.0005, StartP99: 0.003}
	if got := good.Missed(); len(got) > 0 {
		t.Errorf("Missed() = %q, want none", got)
	}
	bad := bench.Report{DrainRatio: 0.79, PublishManyRatio: 0.79, PublishOneRatio: 1.11, StartP50: 0.0006, StartP99: 0.0031}
	want := []string{
		"drain is 0.79 of bare nats.go, want at least 0.80",
		"publish many is 0.79 of bare nats.go, want at least 0.80",
		"publish one takes 1.11 of bare nats.go, want at most 1.10",
		"publish to start takes 0.60 ms at p50, want at most 0.5 ms",
		"publish to start takes 3.10 ms at p99, want at most 3.0 ms",
	}
	if diff := cmp.Diff(want, bad.Missed()); diff != "" {
		t.Errorf("Missed() of a slow run (-want +got):\n%s", diff)
	}
}
