package webhook_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/services/webhook"
	"github.com/droverhq/drover/shared/task"
)

func TestArgs(t *testing.T) {
	t.Parallel()
	if k, c := (webhook.Deliver{}).Kind(), task.ClassOf(webhook.Deliver{}); k != "webhook.deliver" || c != task.Default {
		t.Errorf("kind %s, class %s", k, c)
	}
	want := webhook.Deliver{
		URL: "https://a.test", Event: "e", Secret: "s", Headers: map[string]string{"X-A": "1"},
		Payload: map[string]any{"list": []any{"x", nil, true}, "map": map[string]any{"k": "v"}},
	}
	b, err := task.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got webhook.Deliver
	if err := task.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := string(newKey)
	for _, tt := range []struct {
		name string
		in   webhook.Config
		want []string // in the error; none for no error
	}{
		{"zero", webhook.Config{}, nil},
		{"secrets", webhook.Config{Secrets: "a=" + newKey + ",,b = " + oldKey + ","}, nil},
		{"64 bytes", webhook.Config{Secrets: "a=" + whsec(strings.Repeat("x", 64))}, nil},
		{"file", webhook.Config{SecretsFile: file("good", "# ours\n\na="+key+" # since May\r\nb = "+key+"\n")}, nil},
		{"no name", webhook.Config{Secrets: newKey}, []string{"secret 1 is not of the form NAME=whsec_"}},
		{"empty name", webhook.Config{Secrets: "a=" + newKey + ",=" + newKey}, []string{"secret 2 is not of the form NAME=whsec_"}},
		{"no value", webhook.Config{Secrets: "topsecret"}, []string{"secret 1 is not of the form NAME=whsec_"}},
		{"no prefix", webhook.Config{Secrets: "a=topsecret"}, []string{"secret 1", "does not begin with whsec_"}},
		{"not base64", webhook.Config{Secrets: "a=whsec_topsecret!"}, []string{"secret 1", "not base64"}},
		{"23 bytes", webhook.Config{Secrets: "a=" + whsec(strings.Repeat("x", 23))}, []string{"23 bytes, want 24 to 64"}},
		{"65 bytes", webhook.Config{Secrets: "a=" + whsec(strings.Repeat("x", 65))}, []string{"65 bytes, want 24 to 64"}},
		{"two mistakes", webhook.Config{Secrets: "a,b"}, []string{"secret 1", "secret 2"}},
		{"no such file", webhook.Config{SecretsFile: filepath.Join(dir, "none")}, []string{"secrets: ", "none"}},
		{"mistake in the file", webhook.Config{SecretsFile: file("bad", "\nb=whsec_topsecret!\n")}, []string{"bad, line 2", "not base64"}},
		{"no such authorities", webhook.Config{CA: filepath.Join(dir, "none")}, []string{"authorities"}},
		{"no authority", webhook.Config{CA: file("empty", "")}, []string{"no PEM certificate"}},
		{"negative timeout", webhook.Config{Timeout: -1}, []string{"timeout"}},
		{"port 0", webhook.Config{Ports: []uint16{443, 0}}, []string{"port 0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d, err := webhook.New(tt.in)
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				_ = d.Close()
				return
			}
			if err == nil {
				t.Fatal("New accepts it")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("New: %v, want %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "topsecret") || strings.Contains(err.Error(), strings.TrimPrefix(key, "whsec_")) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestConfigOnCommandLine(t *testing.T) {
	t.Parallel()
	var cli struct{ webhook.Config }
	k, err := kong.New(&cli)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse([]string{"--webhook-secrets=a=topsecret,b=y", "--webhook-allow=127.0.0.0/8,fd00::/8", "--webhook-ports=443,80", "--webhook-secrets-file=f", "--webhook-ca=c"}); err != nil {
		t.Fatal(err)
	}
	want := webhook.Config{
		Secrets: "a=topsecret,b=y", SecretsFile: "f", CA: "c", Ports: []uint16{443, 80}, Timeout: 5 * time.Second,
		BreakerFailures: 10, BreakerOpen: 5 * time.Minute,
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
	}
	if diff := cmp.Diff(want, cli.Config, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := fmt.Sprintf("%+v", cli.Config); strings.Contains(got, "topsecret") {
		t.Errorf("the configuration prints as %s", got)
	}
	if _, err := k.Parse(nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(webhook.Config{Ports: []uint16{443}, Timeout: 5 * time.Second, BreakerFailures: 10, BreakerOpen: 5 * time.Minute}, cli.Config); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	for _, f := range k.Model.Flags {
		if strings.HasPrefix(f.Name, "webhook-") {
			env := "DROVER_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			if diff := cmp.Diff([]string{env}, f.Envs); diff != "" {
				t.Errorf("environment of %s (-want +got):\n%s", f.Name, diff)
			}
		}
	}
}

func TestHost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ url, want string }{
		{"https://Hooks.Example.com/7?token=x", "hooks.example.com"},
		{"https://hooks.example.com:8443/", "hooks.example.com:8443"},
		{"https://user:secret@hooks.example.com/", "hooks.example.com"},
		{"https://[2001:db8::1]/", "[2001:db8::1]"},
		{"https://%zz/", ""},
		{"", ""},
	} {
		if got := (webhook.Deliver{URL: tt.url}).Host(); got != tt.want {
			t.Errorf("Host() of %q = %q, want %q", tt.url, got, tt.want)
		}
	}
}

func TestBreakerFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []webhook.Config{{BreakerFailures: -1}, {BreakerFailures: 1, BreakerOpen: -1}} {
		if _, err := webhook.New(c); err == nil {
			t.Errorf("New(%+v) = nil, want an error", c)
		}
	}
}
