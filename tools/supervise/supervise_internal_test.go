package supervise

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	exit := func(code string) error { return exec.Command("sh", "-c", "exit "+code).Run() }
	one, restart := exit("1"), exit("75")
	tests := []struct {
		name  string
		lives []time.Duration
		err   error
		want  []time.Duration
	}{
		{"short lives", []time.Duration{1, 1, 1, 1}, one, []time.Duration{firstPause, 2 * firstPause, 4 * firstPause, 8 * firstPause}},
		{"capped", make([]time.Duration, 12), one, append([]time.Duration{
			firstPause, 2 * firstPause, 4 * firstPause, 8 * firstPause, 16 * firstPause, 32 * firstPause, 64 * firstPause, 128 * firstPause,
		}, longPause, longPause, longPause, longPause)},
		{"a long life forgives", []time.Duration{1, 1, time.Minute, 1}, one, []time.Duration{firstPause, 2 * firstPause, firstPause, firstPause}},
		{"75 starts again at once", []time.Duration{time.Minute, time.Minute}, restart, []time.Duration{0, 0}},
		{"75 again and again does not", []time.Duration{1, 1, 1}, restart, []time.Duration{0, 0, 4 * firstPause}},
		{"an end without an error", []time.Duration{1}, nil, []time.Duration{firstPause}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var b backoff
			var got []time.Duration
			for _, lived := range test.lives {
				got = append(got, b.next(test.err, lived))
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("pauses (-want +got):\n%s", d)
			}
		})
	}
}

func TestParseRecord(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, line, want string // want is level and text; "" when it is no record
	}{
		{"plain", `time=2026-01-01T00:00:00Z level=WARN msg=short service.name=email`, "WARN short"},
		{"quoted", `time=2026-01-01T00:00:00Z level=ERROR msg="it is \"gone\"" error="dial: refused"`, `ERROR it is "gone": dial: refused`},
		{"attributes", `time=2026-01-01T00:00:00Z level=INFO msg=ready n=3 what="a b" trace_id=00`, "INFO ready n=3 what=a b"},
		{"panic", "panic: a=b is wrong", ""},
		{"empty value", `time=2026-01-01T00:00:00Z level=INFO msg=x y= z=1`, "INFO x y= z=1"},
		{"broken quote", `time=x level=INFO msg="x`, `INFO "x`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, ok := parseRecord(test.line)
			got := ""
			if ok {
				got = r.level + " " + r.text()
			}
			if got != test.want {
				t.Errorf("parseRecord(%s) = %q, want %q", test.line, got, test.want)
			}
		})
	}
}

func TestEnviron(t *testing.T) {
	t.Parallel()
	c := Config{Drain: time.Second, FleetFile: "f.yaml", Env: []string{"A=2"}}
	own := []string{"A=1", "DROVER_CREDS=x", "OTEL_EXPORTER_OTLP_ENDPOINT=y", "DROVER_CLASS=bulk"}
	got := c.environ(own, "nats://h:1")
	want := []string{
		"A=1", "OTEL_EXPORTER_OTLP_ENDPOINT=y", "DROVER_SUPERVISED=1", "DROVER_NATS_URL=nats://h:1", "DROVER_ADMIN_ADDR=127.0.0.1:0",
		"DROVER_DRAIN=1s", "DROVER_LOG_FORMAT=text", "DROVER_LOG_LEVEL=info", "OTEL_BSP_SCHEDULE_DELAY=500", "DROVER_FLEET=f.yaml", "A=2",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("environ() (-want +got):\n%s", d)
	}
	got = c.environ(append(own, "OTEL_BSP_SCHEDULE_DELAY=50"), "nats://h:1")
	if slices.Contains(got, "OTEL_BSP_SCHEDULE_DELAY=500") || !slices.Contains(got, "OTEL_BSP_SCHEDULE_DELAY=50") {
		t.Errorf("environ() = %q, want the delay that was set", got)
	}
}

func TestOccupantThatIsNoServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}()
	got := occupant(context.WithoutCancel(t.Context()), l.Addr().(*net.TCPAddr).Port)
	if !strings.Contains(got, "something that is no nats-server") || !strings.Contains(got, "--port") {
		t.Errorf("occupant() = %q", got)
	}
}
