package email_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/services/email"
	"github.com/droverhq/drover/services/internal/relay"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := email.Config{Addr: "mail.example.com:587", From: "a@example.com"}
	set := func(f func(*email.Config)) email.Config {
		c := good
		f(&c)
		return c
	}
	for _, tt := range []struct {
		name string
		in   email.Config
		want []string // in the error; none for no error
	}{
		{"defaults", good, nil},
		{"login over STARTTLS", set(func(c *email.Config) { c.Username, c.Password = "u", "p" }), nil},
		{"plain login on loopback", set(func(c *email.Config) { c.Addr, c.TLS, c.Username = "[::1]:25", relay.NoTLS, "u" }), nil},
		{"nothing", email.Config{}, []string{"set DROVER_SMTP_ADDR", "set DROVER_SMTP_FROM"}},
		{"no port", set(func(c *email.Config) { c.Addr = "mail.example.com" }), []string{"missing port"}},
		{"no host", set(func(c *email.Config) { c.Addr = ":25" }), []string{"HOST:PORT"}},
		{"bad port", set(func(c *email.Config) { c.Addr = "a:0" }), []string{"HOST:PORT"}},
		{"bad sender", set(func(c *email.Config) { c.From = "nobody" }), []string{"smtp sender: address"}},
		{"bad mode", set(func(c *email.Config) { c.TLS = "ssl" }), []string{`smtp tls mode "ssl"`}},
		{"plain login", set(func(c *email.Config) { c.TLS, c.Username, c.Password = relay.NoTLS, "u", "hunter2" }), []string{"must not travel unencrypted"}},
		{"password alone", set(func(c *email.Config) { c.Password = "hunter2" }), []string{"DROVER_SMTP_USERNAME"}},
		{"no such file", set(func(c *email.Config) { c.CA = "/nonexistent/ca.pem" }), []string{"smtp authorities"}},
		{"no certificate in it", set(func(c *email.Config) { c.CA = empty }), []string{"no PEM certificate"}},
		{
			"negative", set(func(c *email.Config) { c.Timeout, c.DataTimeout, c.Idle, c.MaxIdle = -1, -1, -1, -1 }),
			[]string{"smtp timeout", "smtp data timeout", "smtp idle", "smtp max idle"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := email.New(tt.in)
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				_ = s.Close()
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
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

func TestConfigOnCommandLine(t *testing.T) {
	t.Parallel()
	var cli struct{ email.Config }
	k, err := kong.New(&cli)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse([]string{"--smtp-addr=mail.example.com:465", "--smtp-tls=tls", "--smtp-from=a@example.com", "--smtp-username=u", "--smtp-password=hunter2", "--smtp-ca=ca.pem"}); err != nil {
		t.Fatal(err)
	}
	want := email.Config{
		Addr: "mail.example.com:465", Username: "u", Password: "hunter2", TLS: relay.ImplicitTLS, CA: "ca.pem", From: "a@example.com",
		Timeout: 5 * time.Second, DataTimeout: 30 * time.Second, Idle: 30 * time.Second, MaxIdle: 32,
	}
	if diff := cmp.Diff(want, cli.Config); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := fmt.Sprintf("%+v", cli.Config); strings.Contains(got, "hunter2") {
		t.Errorf("the configuration prints as %s", got)
	}
	for _, f := range k.Model.Flags {
		if name, ok := strings.CutPrefix(f.Name, "smtp-"); ok {
			env := "DROVER_SMTP_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
			if diff := cmp.Diff([]string{env}, f.Envs); diff != "" {
				t.Errorf("environment of %s (-want +got):\n%s", f.Name, diff)
			}
		}
	}
}
