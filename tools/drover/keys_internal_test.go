package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/keyring"
)

// The verbs work with the keys that `drover keys` makes: the operator's for all, a
// producer's for enqueue.
func TestVerbsWithKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, _, err := keyring.Write(dir, streams.Default()); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "broker.conf")
	if err := os.WriteFile(conf, []byte("jetstream {}\ninclude \""+keyring.ConfFile+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.StoreDir = "127.0.0.1", server.RANDOM_PORT, t.TempDir()
	s := natstest.Serve(t, o)
	for _, tt := range []struct {
		args string
		key  string
		code int
		says string
	}{
		{"streams apply", "drover", exitOK, "created"},
		{"enqueue email.send to=a", "drover", exitOK, ""},
		{"enqueue email.send to=a", "producer", exitOK, ""},
		{"lanes", "drover", exitOK, "email"},
		{"streams plan", "drover", exitOK, "nothing to change"},
		{"dead ls", "drover", exitOK, ""},
		{"enqueue email.send to=a", "email", exitRefused, "publish to tasks.default.email.send"},
		{"enqueue email.send to=a", "", exitRefused, "check the credentials"},
	} {
		args := append(strings.Fields(tt.args), "--nats", s.ClientURL())
		if tt.key != "" {
			args = append(args, "--nkey", filepath.Join(dir, tt.key+".nk"))
		}
		var out strings.Builder
		if code := execute(t.Context(), args, strings.NewReader(""), &out, &out); code != tt.code || !strings.Contains(out.String(), tt.says) {
			t.Errorf("drover %s with the key of %q = %d, want %d and %q:\n%s", tt.args, tt.key, code, tt.code, tt.says, out.String())
		}
	}
}
