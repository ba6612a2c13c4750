package deploytest_test

import (
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/droverhq/drover/services/cmd/catalog"
)

// Every service of the fleet is in the file, built from its own command, and so
// is the one that makes the topology.
func TestComposeHasTheFleet(t *testing.T) {
	t.Parallel()
	var got, want []string
	for name, c := range readCompose(t).Services {
		if !c.ours() {
			continue
		}
		got = append(got, name+" "+c.pkg())
		if dir := filepath.Clean(fromCompose(c.Build.Context)); dir != root {
			t.Errorf("%s is built in %s, want the root of the repository", name, dir)
		}
		if file := filepath.Join(fromCompose(c.Build.Context), c.Build.Dockerfile); filepath.Clean(file) != filepath.Clean(containerfile) {
			t.Errorf("%s is built by %s, want %s", name, file, containerfile)
		}
	}
	want = append(want, "apply ./tools/drover")
	for _, s := range catalog.All() {
		want = append(want, s.Name+" ./services/cmd/"+s.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the file builds %q, want %q", got, want)
	}
}

func TestComposeHardens(t *testing.T) {
	t.Parallel()
	sized := regexp.MustCompile(`^/tmp:.*\bsize=\d+m\b`)
	for name, c := range readCompose(t).Services {
		if !c.ReadOnly {
			t.Errorf("%s: the root file system is not read-only", name)
		}
		if !slices.Equal(c.CapDrop, []string{"ALL"}) {
			t.Errorf("%s: drops capabilities %v, want ALL", name, c.CapDrop)
		}
		if !slices.Contains(c.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: security options %v, want no-new-privileges", name, c.SecurityOpt)
		}
		if len(c.Tmpfs) != 1 || !sized.MatchString(c.Tmpfs[0]) {
			t.Errorf("%s: tmpfs %v, want /tmp with a size", name, c.Tmpfs)
		}
		for _, p := range c.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to the network, want 127.0.0.1", name, p)
			}
		}
		if _, tag, ok := strings.Cut(c.Image, ":"); !c.ours() && (!ok || !strings.ContainsAny(tag, "0123456789") || strings.Count(tag, ".") != 2) {
			t.Errorf("%s: image %s, want a pinned tag", name, c.Image)
		}
		for _, v := range c.Volumes {
			from, _ := cutVolume(t, v)
			if !strings.HasPrefix(from, ".") {
				continue // a volume of the file's
			}
			if _, err := os.Stat(fromCompose(from)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// The broker is the nats-server that everything is tested with.
func TestComposeBrokerVersion(t *testing.T) {
	t.Parallel()
	_, tag, _ := strings.Cut(readCompose(t).Services["broker"].Image, ":")
	if version, _, _ := strings.Cut(tag, "-"); version != server.VERSION {
		t.Errorf("the broker is nats-server %s, tested is %s", version, server.VERSION)
	}
}

// Every variable and flag that the file sets is one that the command in the image
// has: a misspelt variable is silently ignored otherwise.
func TestComposeVariables(t *testing.T) {
	t.Parallel()
	documented, err := os.ReadFile(root + "/services/README.md")
	if err != nil {
		t.Fatal(err)
	}
	otel := regexp.MustCompile(`OTEL_[A-Z_]+`).FindAllString(string(documented), -1)
	for name, c := range readCompose(t).Services {
		if !c.ours() {
			if len(c.Environment) > 0 {
				t.Errorf("%s: this test does not know the variables of %s", name, c.Image)
			}
			continue
		}
		help := commandHelp(t, c)
		known := regexp.MustCompile(`\$[A-Z][A-Z0-9_]*`).FindAllString(help, -1)
		for variable := range c.Environment {
			if !slices.Contains(known, "$"+variable) && !(strings.HasPrefix(variable, "OTEL_") && slices.Contains(otel, variable)) {
				t.Errorf("%s: variable %s is neither in its --help nor, for OpenTelemetry, in services/README.md", name, variable)
			}
		}
		flags := regexp.MustCompile(`--[a-z][a-z-]*`).FindAllString(help, -1)
		for _, arg := range c.Command {
			if flag, _, _ := strings.Cut(arg, "="); strings.HasPrefix(flag, "-") && !slices.Contains(flags, flag) {
				t.Errorf("%s: flag %s is not in its --help", name, flag)
			}
		}
	}
}

// commandHelp is what the container's command says with --help.
func commandHelp(t *testing.T, c container) string {
	t.Helper()
	args := []string{}
	for _, a := range c.Command {
		if !strings.HasPrefix(a, "-") {
			args = append(args, a)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(build(t, c.pkg()), "app"), append(args, "--help")...)
	cmd.Env = []string{}
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v --help: %v\n%s", c.pkg(), args, err, text)
	}
	return string(text)
}

// ports are where containers of the file listen for the others.
var ports = map[string]string{
	"broker": "4222",
	"mail":   "1025", // mailpit's default
	"jaeger": "4318", // OTLP over HTTP, which the services speak unless told otherwise
}

var endpoint = regexp.MustCompile(`([a-z0-9.-]+):(\d+)\b`)

// Every address in a variable is that of another container, at the port where it
// listens: "localhost" in a container is the container itself.
func TestComposeAddresses(t *testing.T) {
	t.Parallel()
	file := readCompose(t)
	for name, c := range file.Services {
		for variable, value := range c.environ() {
			for _, m := range endpoint.FindAllStringSubmatch(value, -1) {
				host, port := m[1], m[2]
				if _, ok := file.Services[host]; !ok || host == name {
					t.Errorf("%s: %s is %s, and %s is no other container", name, variable, value, host)
				} else if ports[host] != port {
					t.Errorf("%s: %s is %s, and %s listens on %s", name, variable, value, host, ports[host])
				}
			}
		}
	}
}

// Health checks ask the admin port that the service has by default, starts are in
// order, and a stop leaves time for the drain.
func TestComposeLifecycle(t *testing.T) {
	t.Parallel()
	file := readCompose(t)
	if got := file.Services["apply"].DependsOn["broker"].Condition; got != "service_healthy" {
		t.Errorf("apply starts when the broker is %q, want it healthy: it does not wait by itself", got)
	}
	if got := file.Services["apply"].Restart; got != "" {
		t.Errorf("apply is restarted %s, want it to run once", got)
	}
	for _, s := range catalog.All() {
		c := file.Services[s.Name]
		if got := c.DependsOn["apply"].Condition; got != "service_completed_successfully" {
			t.Errorf("%s starts when apply is %q, want it completed: it binds to what is there", s.Name, got)
		}
		health, err := url.Parse(healthURL(c))
		if err != nil {
			t.Fatal(err)
		}
		if admin := s.Admin; health.Host != admin {
			t.Errorf("%s: the health check asks %s, and the admin port is at %s", s.Name, health.Host, admin)
		}
		if len(c.Healthcheck.Test) != 3 || c.Healthcheck.Test[0] != "CMD" || c.Healthcheck.Test[1] != "/probe" {
			t.Errorf("%s: the health check is %v, want CMD /probe URL: the image has no shell", s.Name, c.Healthcheck.Test)
		}
		if got := seconds(t, c.Healthcheck.Timeout); got <= 3*time.Second {
			t.Errorf("%s: a health check may take %v, and /probe takes up to 3s", s.Name, got)
		}
		drain := 25 * time.Second
		if set, ok := c.environ()["DROVER_DRAIN"]; ok {
			drain = seconds(t, set)
		}
		const after = 31 * time.Second // services/README.md, "Start and end"
		if got := seconds(t, c.StopGracePeriod); got < drain+after {
			t.Errorf("%s is killed %v after SIGTERM, and draining may take %v", s.Name, got, drain+after)
		}
		if !c.Init {
			t.Errorf("%s has no init: what a handler's process leaves behind would never be reaped", s.Name)
		}
		if c.Restart != "unless-stopped" {
			t.Errorf("%s is restarted %q, want unless-stopped: exit codes 1 and 75 ask for it", s.Name, c.Restart)
		}
	}
}

// Jaeger takes traces only; metrics sent there would be lost, and complained of.
func TestComposeSendsNoMetricsToJaeger(t *testing.T) {
	t.Parallel()
	for name, c := range readCompose(t).Services {
		for _, variable := range slices.Sorted(maps.Keys(c.Environment)) {
			if variable == "OTEL_EXPORTER_OTLP_ENDPOINT" && c.Environment["OTEL_METRICS_EXPORTER"] != "none" {
				t.Errorf("%s: %s sends metrics to Jaeger as well: use OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", name, variable)
			}
		}
	}
}
