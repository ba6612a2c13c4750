package service_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/services/service"
)

// config is a service's own configuration.
type config struct {
	Addr    string        `name:"smtp-addr" env:"TEST_SMTP_ADDR" help:"SMTP server."`
	Timeout time.Duration `name:"smtp-timeout" default:"5s"`
}

func configured() (service.Service, *config) {
	cfg := &config{}
	return service.Service{
		Name: "email", Help: "Sends mail.", Admin: "127.0.0.1:8081", Config: cfg,
		Check: func() error {
			if cfg.Addr == "" {
				return errors.New("smtp server is not set")
			}
			return nil
		},
		Run: func(context.Context, *service.Env) error { return errors.New("was run") },
	}, cfg
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	fleet := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(fleet, []byte("replicas: 1\nclasses: []\nservices: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		want string // in the error
	}{
		{"unknown flag", []string{"--nast", "x"}, "unknown flag --nast"},
		{"argument", []string{"urgent"}, "unexpected argument urgent"},
		{"class that the service does not serve", []string{"--class", "slow"}, "--class slow: the built-in fleet.yaml lets email serve urgent, default, bulk"},
		{"class that does not exist", []string{"--class", "fast"}, "--class fast: the built-in fleet.yaml lets email serve urgent, default, bulk"},
		{"pool", []string{"--pool", "some"}, `--pool must be one of "all","live","retry"`},
		{"level", []string{"--log-level", "loud"}, "--log-level"},
		{"format", []string{"--log-format", "xml"}, `--log-format must be one of "text","json"`},
		{"duration", []string{"--drain", "25"}, "--drain"},
		{"negative duration", []string{"--drain=-1s"}, "neither can be negative"},
		{"negative tasks", []string{"--recycle-after=-1"}, "--recycle-after -1: want 0 for never, or more"},
		{"size without a unit", []string{"--recycle-above=200MB"}, `--recycle-above: "200MB" is not a size: want a whole number of bytes, or one with KiB, MiB or GiB, such as 200MiB`},
		{"size that is none", []string{"--recycle-above=9999999999GiB"}, `"9999999999GiB" is not a size`},
		{"admin address", []string{"--admin", "8081"}, "--admin: address 8081: missing port in address: want HOST:PORT"},
		{"fleet file away", []string{"--fleet", "/none.yaml"}, "--fleet: stat /none.yaml: no such file or directory"},
		{"fleet file wrong", []string{"--fleet", fleet}, "--fleet: " + fleet},
		{"credentials away", []string{"--creds", "/none.creds"}, "--creds: stat /none.creds: no such file or directory"},
		{"two identities", []string{"--creds", fleet, "--nkey", fleet}, "--creds and --nkey: give one of them"},
		{"own configuration", []string{"--smtp-addr", ""}, "smtp server is not set"},
		{"no time", []string{"--smtp-timeout", "0"}, "--smtp-timeout 0s: want more than nothing"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, _ := configured()
			args := append([]string{"--smtp-addr", "localhost:25"}, test.args...)
			var stderr strings.Builder
			if code := service.Exec(t.Context(), s, args, io.Discard, &stderr); code != 78 {
				t.Errorf("Exec(%q) = %d, want 78", test.args, code)
			}
			for _, want := range []string{"email: wrong usage: ", test.want, `Run "email --help" for all flags.`} {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("Exec(%q) wrote %q, want %q in it", test.args, &stderr, want)
				}
			}
		})
	}
}

func TestUnknownService(t *testing.T) {
	t.Parallel()
	s, _ := configured()
	s.Name = "fax"
	err := service.Run(t.Context(), s, []string{"--smtp-addr=x:1"}, io.Discard, io.Discard)
	want := `wrong usage: the built-in fleet.yaml has no service "fax": add it there, or name another file with --fleet`
	if err == nil || err.Error() != want {
		t.Errorf("Run() = %v, want %s", err, want)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	s, _ := configured()
	s.Usage = "drover run email"
	var help, ver strings.Builder
	if err := service.Run(t.Context(), s, []string{"--help"}, &help, io.Discard); err != nil {
		t.Fatalf("Run(--help) = %v", err)
	}
	for _, want := range []string{
		"Usage: drover run email [flags]", "Sends mail.", "Examples:", "drover run email --class urgent", "Exit codes:",
		"--smtp-addr", "$DROVER_NATS_URL", "127.0.0.1:8081",
	} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("--help has no %q:\n%s", want, &help)
		}
	}
	if err := service.Run(t.Context(), s, []string{"--version"}, &ver, io.Discard); err != nil {
		t.Fatalf("Run(--version) = %v", err)
	}
	if !strings.HasPrefix(ver.String(), "email ") || strings.Count(ver.String(), "\n") != 1 {
		t.Errorf("--version wrote %q, want one line that begins with the service", &ver)
	}
}

// A flag beats the environment, and the environment the default.
func TestEnvironment(t *testing.T) {
	t.Setenv("TEST_SMTP_ADDR", "from.env:25")
	t.Setenv("DROVER_CLASS", "fast")
	s, cfg := configured()
	err := service.Run(t.Context(), s, nil, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "--class fast") || cfg.Addr != "from.env:25" {
		t.Errorf("Run() = %v with server %q, want both from the environment", err, cfg.Addr)
	}
	t.Setenv("DROVER_CLASS", "urgent,bulk")
	t.Setenv("DROVER_ADMIN_ADDR", "") // turns it off: nothing listens at the default
	err = service.Run(t.Context(), s, []string{"--smtp-addr=from.flag:25", "--nats=nats://127.0.0.1:1", "--nats-wait=0s"}, io.Discard, io.Discard)
	if err == nil || errors.Is(err, service.ErrUsage) || cfg.Addr != "from.flag:25" {
		t.Errorf("Run() = %v with server %q, want it to get as far as the broker", err, cfg.Addr)
	}
}

// A service that takes no tasks is in no fleet file, and is told so by whoever
// gives it classes.
func TestNoTasks(t *testing.T) {
	t.Parallel()
	s := service.Service{Name: "deadletter", NoTasks: true, Run: func(_ context.Context, env *service.Env) error {
		env.Ready(func() error { return nil })
		return errors.New("was run")
	}}
	for _, args := range [][]string{{"--class", "urgent"}, {"--pool", "retry"}} {
		err := service.Run(t.Context(), s, args, io.Discard, io.Discard)
		if want := "--class, --pool: deadletter takes no tasks"; !errors.Is(err, service.ErrUsage) || !strings.Contains(err.Error(), want) {
			t.Errorf("Run(%v) = %v, want wrong usage with %q", args, err, want)
		}
	}
	url, _ := testBroker(t)
	if err := service.Run(t.Context(), s, []string{"--nats", url, "--admin", ""}, io.Discard, io.Discard); err == nil || err.Error() != "was run" {
		t.Errorf("Run = %v, want it to run", err)
	}
	var help strings.Builder
	if err := service.Run(t.Context(), s, []string{"--help"}, &help, io.Discard); err != nil || strings.Contains(help.String(), "--class urgent ") {
		t.Errorf("--help = %v, want no example with a class:\n%s", err, &help)
	}
}
