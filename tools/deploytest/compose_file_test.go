package deploytest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// Files under test, from this folder.
const (
	root        = "../.."
	brokerConf  = root + "/deploy/nats/nats-server.conf"
	composeFile = root + "/deploy/compose/compose.yaml"
)

// compose is as much of a compose file as ours uses; a key that is not here is an
// error, so that a misspelt one does not pass for absent.
type compose struct {
	Name     string               `yaml:"name"`
	Services map[string]container `yaml:"services"`
	Volumes  map[string]any       `yaml:"volumes"`

	Hardened    any `yaml:"x-hardened"`
	Service     any `yaml:"x-service"`
	Environment any `yaml:"x-environment"`
	Health      any `yaml:"x-health"`
}

type container struct {
	Image string `yaml:"image"`
	Build struct {
		Context    string            `yaml:"context"`
		Dockerfile string            `yaml:"dockerfile"`
		Args       map[string]string `yaml:"args"`
	} `yaml:"build"`

	Entrypoint  []string          `yaml:"entrypoint"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`

	Restart         string   `yaml:"restart"`
	ReadOnly        bool     `yaml:"read_only"`
	CapDrop         []string `yaml:"cap_drop"`
	SecurityOpt     []string `yaml:"security_opt"`
	Tmpfs           []string `yaml:"tmpfs"`
	Init            bool     `yaml:"init"`
	StopGracePeriod string   `yaml:"stop_grace_period"`

	DependsOn map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
	Healthcheck struct {
		Test        []string `yaml:"test"`
		Interval    string   `yaml:"interval"`
		Timeout     string   `yaml:"timeout"`
		Retries     int      `yaml:"retries"`
		StartPeriod string   `yaml:"start_period"`
	} `yaml:"healthcheck"`
}

// ours reports whether the image is built from this repository.
func (c container) ours() bool { return c.Build.Dockerfile != "" }

// pkg is the package that the image's command is built from.
func (c container) pkg() string {
	if p := c.Build.Args["PACKAGE"]; p != "" {
		return p
	}
	return "./services/cmd/" + c.Build.Args["SERVICE"]
}

var interpolated = regexp.MustCompile(`\$\{([A-Z_]+):-([^}]*)\}`)

// environ is the container's environment as a shell without any of the file's
// variables leads to it.
func (c container) environ() map[string]string {
	env := map[string]string{}
	for name, value := range c.Environment {
		env[name] = interpolated.ReplaceAllString(value, "$2")
	}
	return env
}

func readCompose(t *testing.T) compose {
	t.Helper()
	text, err := os.ReadFile(composeFile)
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	if err := yaml.UnmarshalWithOptions(text, &c, yaml.Strict()); err != nil {
		t.Fatalf("%s: %v", composeFile, err)
	}
	if len(c.Services) == 0 {
		t.Fatalf("%s has no services", composeFile)
	}
	return c
}

// fromCompose is the path that a relative one in the compose file stands for.
func fromCompose(p string) string { return filepath.Join(filepath.Dir(composeFile), p) }

func seconds(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Errorf("duration %q: %v", text, err)
	}
	return d
}

// healthURL is what a health check asks.
func healthURL(c container) string {
	for _, arg := range c.Healthcheck.Test {
		if strings.HasPrefix(arg, "http") {
			return arg
		}
	}
	return ""
}
