package deploytest_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/tools/keyring"
)

// The four steps of deploy/README.md: at none of them is a process refused that has
// the key it should have, and after the last one the old key is worth nothing.
func TestRotateKey(t *testing.T) {
	t.Parallel()
	g := &guarded{dir: t.TempDir(), fleet: fleetOfShops()}
	// In a process of its own: a server that reloads takes the flags of all servers of
	// its process for its own.
	b := natstest.Spawn(t, brokerRole, "DEPLOYTEST_CONF="+g.configure(t))
	_, url, _ := strings.Cut(b.Output(), "ready ")
	g.url, _, _ = strings.Cut(url, "\n")
	g.fill(t)
	reloads := 0
	reload := func() {
		t.Helper()
		if _, _, err := keyring.Write(g.dir, g.fleet); err != nil {
			t.Fatal(err)
		}
		b.Signal(syscall.SIGHUP)
		reloads++
		eventually(t, "the broker has read accounts.conf again", func() bool {
			return strings.Count(b.Output(), "reloaded <nil>") == reloads
		})
	}
	closed := make(chan error, 1)
	before := g.as(t, "producer", nats.ClosedHandler(func(nc *nats.Conn) { closed <- nc.LastError() }))
	if err := keyring.Rotate(g.dir, "producer"); err != nil {
		t.Fatal(err)
	}
	reload()
	publish(t, before, job{Do: "old key"})
	after := g.as(t, "producer")
	publish(t, after, job{Do: "new key"})
	seed, err := os.ReadFile(filepath.Join(g.dir, "producer.old.nk"))
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(t.TempDir(), "producer.nk") // as a process has it that was forgotten
	if err := os.WriteFile(kept, seed, 0o600); err != nil {
		t.Fatal(err)
	}

	if err := keyring.Retire(g.dir, "producer"); err != nil {
		t.Fatal(err)
	}
	reload()
	select {
	case <-closed:
	case <-time.After(limit):
		t.Errorf("a connection with the old key still stands %v after it was retired", limit)
	}
	_, err = broker.Connect(t.Context(), broker.Options{URL: g.url, Name: "producer", NKey: kept, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("connect with the old key = %v, want %v", err, nats.ErrAuthorization)
	}
	publish(t, after, job{Do: "new key"})
	before.clean(t)
	after.clean(t)
}
