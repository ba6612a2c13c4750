package client_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
)

// A full account or broker is told from a full class: an empty class is refused, and
// nothing that could be done to it would help.
func TestFullBelowTheStream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, config string
		want, not    error
		says         string
	}{
		{
			"account", `jetstream {store_dir: %q}
accounts { APP { jetstream {max_file: 1MB}, users: [{user: u, password: p}] } }`,
			client.ErrAccountFull, client.ErrBrokerFull, "the account's storage is full: resource limits exceeded for account: .*max_file of the account",
		},
		{
			"broker", `jetstream {store_dir: %q, max_file_store: 1MB}`,
			client.ErrBrokerFull, client.ErrAccountFull, "the broker's storage is full: insufficient resources: .*max_file_store",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.Connect(t, limited(t, tt.config))
			fleet(t, js)
			c := newClient(t, js)
			var err error
			for range 20 { // of 100 KiB
				if _, err = c.Publish(t.Context(), Send{Text: noise(100 << 10)}, client.Class("bulk")); err != nil {
					break
				}
			}
			full(t, err)
			_, err = c.Publish(t.Context(), Send{Text: noise(100 << 10)})
			e := full(t, err)
			if !errors.Is(err, tt.want) || errors.Is(err, tt.not) {
				t.Errorf("Publish to an empty class = %v, want %v", err, tt.want)
			}
			before, after, _ := strings.Cut(tt.says, ".*")
			if text := e.Error(); !strings.HasPrefix(text, before) || !strings.Contains(text, after) || strings.Contains(text, "TASKS_DEFAULT") {
				t.Errorf("it says %q, want %q, and nothing of the class", text, tt.says)
			}
			if e.RetryAfter != 10*time.Second {
				t.Errorf("RetryAfter = %v, want 10s", e.RetryAfter)
			}
			out, _ := client.PublishAll(t.Context(), c, []Send{{Text: noise(100 << 10)}})
			if !errors.Is(out[0].Err, tt.want) {
				t.Errorf("PublishAll = %v, want %v", out[0].Err, tt.want)
			}
		})
	}
}

// limited is the URL, with its user, of a broker with this configuration, in which
// %q is where it stores.
func limited(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "nats.conf")
	text := "listen: \"127.0.0.1:-1\"\n" + fmt.Sprintf(config, filepath.Join(dir, "store"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(natstest.Serve(t, o).ClientURL(), "://", "://u:p@", 1)
}
