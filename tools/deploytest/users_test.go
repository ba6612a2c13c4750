package deploytest_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/keyring"
)

// guarded is a broker that has a fleet's topology and asks for its keys.
type guarded struct {
	dir   string // of the keys
	url   string
	fleet *streams.Fleet
}

// fleetOfShops is the default fleet with two more producers: shop has parts of it,
// and archive has bodies.
func fleetOfShops() *streams.Fleet {
	f := streams.Default()
	f.Producers = append(f.Producers,
		streams.Producer{Name: "shop", Services: []string{"email"}, Classes: []task.Class{task.Urgent}},
		streams.Producer{Name: "archive", Services: []string{"email"}, Bodies: true})
	return f
}

func guard(t *testing.T, f *streams.Fleet) *guarded {
	t.Helper()
	g := &guarded{dir: t.TempDir(), fleet: f}
	o, err := server.ProcessConfigFile(g.configure(t))
	if err != nil {
		t.Fatal(err)
	}
	g.url = startBroker(t, o).ClientURL()
	g.fill(t)
	return g
}

// configure makes the keys and the broker's configuration, whose name it returns.
func (g *guarded) configure(t *testing.T) string {
	t.Helper()
	if _, _, err := keyring.Write(g.dir, g.fleet); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(g.dir, "broker.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream { max_file_store: 10GB, store_dir: %q }\ninclude %q\n", t.TempDir(), keyring.ConfFile)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return conf
}

// fill makes the topology.
func (g *guarded) fill(t *testing.T) {
	t.Helper()
	js := g.as(t, streams.OperatorUser).js
	if _, err := streams.Apply(t.Context(), js, g.fleet); err != nil {
		t.Fatal(err)
	}
}

// user is a connection with a user's key, made as every process of Drover makes it.
type user struct {
	name string
	js   jetstream.JetStream
	nc   *nats.Conn

	mu     sync.Mutex
	denied []error
}

func (g *guarded) as(t *testing.T, name string, opts ...nats.Option) *user {
	t.Helper()
	return connectAs(t, g.url, g.dir, name, opts...)
}

func connectAs(t *testing.T, url, dir, name string, opts ...nats.Option) *user {
	t.Helper()
	u := &user{name: name}
	js, err := broker.Connect(t.Context(), broker.Options{
		URL: url, Name: name, NKey: filepath.Join(dir, name+".nk"), Wait: limit,
		Logger: slog.New(slog.DiscardHandler), Extra: opts,
	})
	if err != nil {
		t.Fatalf("connect as %s: %v", name, err)
	}
	t.Cleanup(js.Conn().Close)
	u.js, u.nc = js, js.Conn()
	broker.OnDenied(u.nc, func(err *broker.DeniedError) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.denied = append(u.denied, err)
	})
	return u
}

// refusal runs f and returns what the broker then refuses, or nil. A refusal comes
// before the answer to a ping that follows it.
func (u *user) refusal(t *testing.T, f func() error) error {
	t.Helper()
	before := u.nc.LastError()
	if err := f(); err != nil {
		t.Fatal(err)
	}
	if err := u.nc.FlushTimeout(limit); err != nil && !errors.Is(err, nats.ErrPermissionViolation) {
		t.Fatalf("flush: %v", err)
	}
	if after := u.nc.LastError(); after != before { //nolint:errorlint // is it the same one
		return after
	}
	return nil
}

// clean fails the test if the broker refused the user anything.
func (u *user) clean(t *testing.T) {
	t.Helper()
	_ = u.nc.FlushTimeout(limit) // it may be closed: then all there was has come
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, err := range u.denied {
		t.Errorf("%s: %v", u.name, err)
	}
}
