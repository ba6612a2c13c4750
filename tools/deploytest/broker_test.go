package deploytest_test

import (
	"flag"
	"io"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// What the configuration says, as nats-server reads it: an unknown key in it is
// an error there.
func TestBrokerConfig(t *testing.T) {
	t.Parallel()
	o, err := server.ProcessConfigFile(brokerConf)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what      string
		got, want any
	}{
		{"clients' address", o.Host, "127.0.0.1"},
		{"clients' port", o.Port, 4222},
		{"monitoring address", o.HTTPHost, "127.0.0.1"},
		{"monitoring port", o.HTTPPort, 8222},
		{"most bytes of a message", o.MaxPayload, int32(1 << 20)},
		{"JetStream", o.JetStream, true},
		{"store", o.StoreDir, "/var/lib/nats"},
		{"sync always", o.SyncAlways, true},
		{"room on disk", o.JetStreamMaxStore, int64(10 << 30)},
		{"room in memory", o.JetStreamMaxMemory, int64(0)},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %v, want %v", tt.what, tt.got, tt.want)
		}
	}
	if broker.DefaultURL != "nats://127.0.0.1:4222" {
		t.Errorf("clients look for the broker at %s, and it listens on 127.0.0.1:4222", broker.DefaultURL)
	}
	if largest := int32(512 << 10); o.MaxPayload < 2*largest {
		t.Errorf("max_payload %d leaves too little room above the largest task, %d", o.MaxPayload, largest)
	}
}

// A broker with this configuration takes the default fleet, and a second apply
// finds nothing to do.
func TestBrokerHoldsTheFleet(t *testing.T) {
	t.Parallel()
	o, err := server.ProcessConfigFile(brokerConf)
	if err != nil {
		t.Fatal(err)
	}
	s := startBroker(t, o)
	js := natstest.Connect(t, s.ClientURL())
	changes, err := streams.Apply(t.Context(), js, streams.Default())
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) == 0 {
		t.Error("apply changed nothing on an empty broker")
	}
	changes, err = streams.Apply(t.Context(), js, streams.Default())
	if err != nil || slices.ContainsFunc(changes, func(c streams.Change) bool { return c.Action == streams.Create || c.Action == streams.Update }) {
		t.Errorf("the second apply: %v, error %v; want nothing to do", changes, err)
	}
	for _, service := range streams.Default().Services {
		if err := streams.Check(t.Context(), js, streams.Default(), service.Name); err != nil {
			t.Error(err)
		}
	}
	account, err := js.AccountInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if reserved := account.ReservedStore; reserved > 7*uint64(o.JetStreamMaxStore)/10 {
		t.Errorf("the streams reserve %d of %d bytes: RETRY reserves nothing and needs a third", reserved, o.JetStreamMaxStore)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MISTAKE", Storage: jetstream.MemoryStorage}); err == nil {
		t.Error("the broker took a stream in memory")
	}
	body, err := task.Marshal(map[string]any{"to": []string{"ada@example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "tasks.default.email.send", body); err != nil {
		t.Errorf("publish a task: %v", err)
	}
}

// The container of the compose file: nats-server takes its command line, clients
// can reach it from other containers, monitoring only its own health check can,
// and its store is the volume.
func TestBrokerContainer(t *testing.T) {
	t.Parallel()
	file := readCompose(t)
	c := file.Services["broker"]
	o := brokerOptions(t, c)
	if o.Host != "0.0.0.0" || o.Port != 4222 {
		t.Errorf("clients are to connect to %s:%d, want 0.0.0.0:4222", o.Host, o.Port)
	}
	if o.HTTPHost != "127.0.0.1" {
		t.Errorf("monitoring is open at %s, want it on loopback", o.HTTPHost)
	}
	mounts := map[string]string{} // what is mounted, by where
	for _, v := range c.Volumes {
		from, to := cutVolume(t, v)
		mounts[to] = from
	}
	volume, ok := mounts[o.StoreDir]
	if _, declared := file.Volumes[volume]; !ok || !declared {
		t.Errorf("the store %s is volume %q, want one that the file declares: tasks would end with the container", o.StoreDir, volume)
	}
	if want := "127.0.0.1:4222:4222"; !slices.Equal(c.Ports, []string{want}) {
		t.Errorf("published ports %v, want %s alone: the broker asks nobody for a password", c.Ports, want)
	}

	s := startBroker(t, o)
	health, err := url.Parse(healthURL(c))
	if err != nil {
		t.Fatal(err)
	}
	if health.Hostname() != "127.0.0.1" || health.Port() != "8222" {
		t.Errorf("the health check asks %s, and monitoring is at 127.0.0.1:8222", health.Host)
	}
	health.Host = s.MonitorAddr().String()
	if got := status(t, health.String()); got != http.StatusOK {
		t.Errorf("%s answers %d, want 200", health, got)
	}
}

// brokerOptions are nats-server's options as the container's command line and the
// files mounted into it lead to them.
func brokerOptions(t *testing.T, c container) *server.Options {
	t.Helper()
	if len(c.Entrypoint) == 0 || c.Entrypoint[0] != "nats-server" {
		t.Fatalf("the broker's command is %v, want nats-server", c.Entrypoint)
	}
	args := slices.Clone(c.Entrypoint[1:])
	for _, v := range c.Volumes {
		from, to := cutVolume(t, v)
		if i := slices.Index(args, to); i >= 0 {
			args[i] = fromCompose(from)
		}
	}
	fs := flag.NewFlagSet("nats-server", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	stop := func() { t.Errorf("nats-server %v would print its version or help and end", args) }
	o, err := server.ConfigureOptions(fs, args, stop, stop, stop)
	if err != nil {
		t.Fatalf("nats-server %v: %v", args, err)
	}
	return o
}

// startBroker starts nats-server with o on free ports and a store of its own.
func startBroker(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.HTTPPort = "127.0.0.1", server.RANDOM_PORT, server.RANDOM_PORT
	o.StoreDir = t.TempDir()
	return natstest.Serve(t, o)
}

func status(t *testing.T, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
