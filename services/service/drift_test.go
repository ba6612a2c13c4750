package service_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// A service whose broker is not as it needs it ends at its start, and says what
// is wrong and what to do. What it can work with does not hold it up.
func TestDriftAtStart(t *testing.T) {
	t.Parallel()
	stream := func(name string, change func(*jetstream.StreamConfig)) func(*testing.T, jetstream.JetStream) {
		return func(t *testing.T, js jetstream.JetStream) {
			t.Helper()
			s, err := js.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			cfg := s.CachedInfo().Config
			change(&cfg)
			if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
		}
	}
	consumer := func(change func(*jetstream.ConsumerConfig)) func(*testing.T, jetstream.JetStream) {
		return func(t *testing.T, js jetstream.JetStream) {
			t.Helper()
			c, err := js.Consumer(t.Context(), liveStream, "email")
			if err != nil {
				t.Fatal(err)
			}
			cfg := c.CachedInfo().Config
			change(&cfg)
			if _, err := js.UpdateConsumer(t.Context(), liveStream, cfg); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name  string
		drift func(*testing.T, jetstream.JetStream)
		fleet func(string) string // of the file that the service reads; nil for the built-in one
		want  string              // in what it says at its end
		warns string              // what it says and works on
	}{
		{name: "no stream", drift: func(t *testing.T, js jetstream.JetStream) {
			t.Helper()
			if err := js.DeleteStream(t.Context(), task.DeadStream); err != nil {
				t.Fatal(err)
			}
		}, want: "stream DEAD does not exist"},
		{name: "no consumer", drift: func(t *testing.T, js jetstream.JetStream) {
			t.Helper()
			if err := js.DeleteConsumer(t.Context(), task.RetryStream, "default-email"); err != nil {
				t.Fatal(err)
			}
		}, want: "consumer RETRY/default-email does not exist"},
		{name: "no bucket", drift: func(t *testing.T, js jetstream.JetStream) {
			t.Helper()
			if err := js.DeleteKeyValue(t.Context(), task.FleetBucket); err != nil {
				t.Fatal(err)
			}
		}, want: "bucket FLEET does not exist"},
		{
			name: "filter", drift: consumer(func(c *jetstream.ConsumerConfig) { c.FilterSubject = pingSubject }),
			want: "consumer TASKS_DEFAULT/email: filter is tasks.default.email.ping, want tasks.default.email.", // the journal is JSON
		},
		{
			name: "ack wait", drift: consumer(func(c *jetstream.ConsumerConfig) { c.AckWait = 5 * time.Second }),
			want: "consumer TASKS_DEFAULT/email: ack wait is 5 s, want 30 s",
		},
		{
			name: "limit on RETRY", drift: stream(task.RetryStream, func(c *jetstream.StreamConfig) { c.MaxMsgs = 1000 }),
			want: "stream RETRY: max messages is 1000, want none",
		},
		{
			name: "fewer replicas", fleet: func(s string) string { return strings.Replace(s, "replicas: 1", "replicas: 3", 1) },
			warns: "stream TASKS_DEFAULT: replicas is 1, want 3",
		},
		{name: "a pause", drift: func(t *testing.T, js jetstream.JetStream) {
			t.Helper()
			if _, err := js.PauseConsumer(t.Context(), liveStream, "email", time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url, js := testBroker(t)
			if tt.drift != nil {
				tt.drift(t, js)
			}
			var env []string
			if tt.fleet != nil {
				text, err := os.ReadFile("../../streams/fleet.yaml")
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(t.TempDir(), "fleet.yaml")
				if err := os.WriteFile(file, []byte(tt.fleet(string(text))), 0o600); err != nil {
					t.Fatal(err)
				}
				env = []string{"DROVER_FLEET=" + file}
			}
			cmd, log := begin(t, url, env...)
			if tt.want == "" {
				log.wait(1, "worker takes tasks")
				if !strings.Contains(log.String(), tt.warns) || tt.warns == "" && strings.Contains(log.String(), "WARN") {
					t.Errorf("it does not warn of %q, and of nothing else:\n%s", tt.warns, log)
				}
				signal(t, cmd, syscall.SIGTERM)
				if err := cmd.Wait(); err != nil {
					t.Errorf("the process ended with %v, want 0; it logged:\n%s", err, log)
				}
				return
			}
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("the process ended with %v, want exit code 1", err)
			}
			for _, want := range []string{tt.want, "check streams for email", "run `drover streams apply`"} {
				if !strings.Contains(log.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, log)
				}
			}
		})
	}
}
