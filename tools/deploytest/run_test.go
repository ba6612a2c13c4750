package deploytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/droverhq/drover/services/cmd/catalog"
	"github.com/droverhq/drover/services/email"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/tools/dev"
)

// The compose file without containers: the commands of its images, with its
// arguments and nothing but its variables, of which only the addresses are other
// ones. The topology is made, the services turn healthy by their own health
// checks, a mail is sent, a trace arrives, and SIGTERM ends them cleanly.
func TestComposeRuns(t *testing.T) {
	t.Parallel()
	file := readCompose(t)
	s := startBroker(t, brokerOptions(t, file.Services["broker"]))
	mails := make(chan dev.Mail, 1)
	mail, err := dev.ListenMail(t.Context(), dev.MailOptions{Taken: func(m dev.Mail) { mails <- m }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mail.Close)
	traces := make(chan string, 100) // paths that spans were posted to
	jaeger := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		traces <- r.Method + " " + r.URL.Path
	}))
	t.Cleanup(jaeger.Close)
	here := strings.NewReplacer(
		"broker:4222", s.Addr().String(),
		"mail:1025", mail.Addr(),
		"jaeger:4318", jaeger.Listener.Addr().String(),
	)

	apply := command(t, t.Context(), file.Services["apply"], here)
	if text, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("apply: %v\n%s", err, text)
	}
	running := map[string]*running{}
	for _, service := range catalog.All() {
		running[service.Name] = start(t, file.Services[service.Name], here)
	}
	for name, r := range running {
		r.healthy(t, name, file.Services[name])
	}

	c, err := client.New(natstest.Connect(t, s.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), email.Send{To: email.Addresses{"ada@example.com"}, Subject: "Hello", Text: "It works."}); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-mails:
		if m.Subject != "Hello" || m.From != file.Services["email"].environ()["DROVER_SMTP_FROM"] {
			t.Errorf("mail %+v, want Hello from the configured sender", m)
		}
	case <-time.After(limit):
		t.Fatalf("no mail after %v; email says:\n%s", limit, running["email"].log())
	}

	for name, r := range running {
		if err := r.stop(t); err != nil {
			t.Errorf("%s ended after SIGTERM with %v\n%s", name, err, r.log())
		}
	}
	select { // at the latest when the service ends
	case got := <-traces:
		if want := "POST /v1/traces"; got != want {
			t.Errorf("spans went to %s, want %s", got, want)
		}
	default:
		t.Error("no span arrived where OTEL_EXPORTER_OTLP_TRACES_ENDPOINT says")
	}
}

const limit = 30 * time.Second // for anything to happen on a loaded machine

// command is the container's command with its environment and no other.
func command(t *testing.T, ctx context.Context, c container, here *strings.Replacer) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(build(t, c.pkg()), "app"), c.Command...)
	cmd.Env = []string{}
	for name, value := range c.environ() {
		cmd.Env = append(cmd.Env, name+"="+here.Replace(value))
	}
	return cmd
}

// running is a service's process.
type running struct {
	cmd   *exec.Cmd
	admin chan string // its admin address, once
	ended chan error

	mu   sync.Mutex
	text strings.Builder
}

func start(t *testing.T, c container, here *strings.Replacer) *running {
	t.Helper()
	r := &running{cmd: command(t, context.WithoutCancel(t.Context()), c, here), admin: make(chan string, 1), ended: make(chan error, 1)}
	r.cmd.Env = append(r.cmd.Env, "DROVER_ADMIN_ADDR=127.0.0.1:0") // the default one may be taken on this machine
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		r.read(stderr)
		r.ended <- r.cmd.Wait()
	})
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // when the test failed before stop
		wg.Wait()
	})
	return r
}

// read takes in the log, which is to be JSON, and looks for the admin address.
func (r *running) read(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		r.mu.Lock()
		r.text.WriteString(lines.Text() + "\n")
		r.mu.Unlock()
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "admin port is open" {
			r.admin <- line.Addr
		}
	}
}

func (r *running) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// healthy runs the container's health check until it succeeds.
func (r *running) healthy(t *testing.T, name string, c container) {
	t.Helper()
	var admin string
	select {
	case admin = <-r.admin:
	case err := <-r.ended:
		t.Fatalf("%s ended before it opened its admin port: %v\n%s", name, err, r.log())
	case <-time.After(limit):
		t.Fatalf("%s has no admin port after %v\n%s", name, limit, r.log())
	}
	health, err := url.Parse(healthURL(c))
	if err != nil {
		t.Fatal(err)
	}
	health.Host = admin
	probe := filepath.Join(build(t, c.pkg()), filepath.Base(c.Healthcheck.Test[1]))
	var text []byte
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if text, err = exec.CommandContext(t.Context(), probe, health.String()).CombinedOutput(); err == nil {
			return
		}
	}
	t.Fatalf("%s is not healthy after %v: %v: %s\n%s", name, limit, err, text, r.log())
}

// stop ends the process as a container is stopped.
func (r *running) stop(t *testing.T) error {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-r.ended:
		return err
	case <-time.After(limit):
		t.Errorf("not ended %v after SIGTERM", limit)
		return r.cmd.Process.Kill()
	}
}
