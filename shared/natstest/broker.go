package natstest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const brokerRole = "natstest-broker"

// Broker is a nats-server in a child process, on one loopback port and one store
// over all its lives.
type Broker struct {
	*Process
	URL string // of this broker alone
	env []string
}

// StartBroker starts a nats-server with JetStream in a child process.
func StartBroker(tb testing.TB) *Broker {
	tb.Helper()
	b := newBroker(tb)
	b.Restart(tb)
	return b
}

// Environment of the broker's role.
const (
	envPort   = "NATSTEST_PORT"
	envDir    = "NATSTEST_DIR"
	envName   = "NATSTEST_NAME"   // of the server; without, it is not part of a cluster
	envRoute  = "NATSTEST_ROUTE"  // its own port for the others
	envRoutes = "NATSTEST_ROUTES" // the addresses where it reaches them
	envHidden = "NATSTEST_HIDDEN" // the address that it gives to the others
	envSync   = "NATSTEST_SYNC"   // "always", or the server's default
)

func newBroker(tb testing.TB) *Broker {
	tb.Helper()
	port := FreePort(tb)
	return &Broker{
		URL: "nats://" + loopback(port),
		env: []string{envPort + "=" + strconv.Itoa(port), envDir + "=" + tb.TempDir()},
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// FreePort returns a port that nobody listens on. It is below those that the
// system gives to connections, so that nobody has it when a broker that was
// killed comes back to it.
func FreePort(tb testing.TB) int {
	tb.Helper()
	const first, last = 12000, 32000
	for range 100 {
		port := first + rand.IntN(last-first)
		l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", loopback(port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	tb.Fatal("find a free port: 100 of them are taken")
	return 0
}

// Restart starts the broker again after it was killed or stopped. It returns when
// the broker takes connections; a node of a cluster may be behind the others then.
func (b *Broker) Restart(tb testing.TB) {
	tb.Helper()
	b.Process = Spawn(tb, brokerRole, b.env...)
}

// Connect returns a JetStream context on the broker that reconnects for ever. It
// is closed when tb ends.
func (b *Broker) Connect(tb testing.TB) jetstream.JetStream {
	tb.Helper()
	return Connect(tb, b.URL)
}

// Connect returns a JetStream context on the server at url that reconnects for
// ever. url may be several, separated by commas: which one it connects to, and to
// which it goes from there, is random. It is closed when tb ends.
func Connect(tb testing.TB, url string) jetstream.JetStream {
	tb.Helper()
	js, err := dial(url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(js.Conn().Close)
	return js
}

func dial(url string) (jetstream.JetStream, error) {
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	return js, nil
}

// brokerMain is the body of a broker's process.
func brokerMain() int {
	o, err := brokerOptions()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	s, err := server.NewServer(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s.ConfigureLogger()
	s.Start()
	if !s.ReadyForConnections(readyWithin) {
		fmt.Fprintln(os.Stderr, "nats-server is not ready")
		return 1
	}
	monitor := ""
	if a := s.MonitorAddr(); a != nil {
		monitor = "http://" + a.String()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) // before "ready": a signal may follow it at once
	defer stop()
	fmt.Println("ready", s.ClientURL(), monitor) //nolint:forbidigo // it is the protocol of Spawn
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return 0
}

func brokerOptions() (*server.Options, error) {
	port, err := strconv.Atoi(os.Getenv(envPort))
	if err != nil {
		return nil, err
	}
	o := &server.Options{
		ServerName: "natstest", Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: os.Getenv(envDir), NoSigs: true, NoLog: true,
		SyncAlways: os.Getenv(envSync) == "always",
	}
	name := os.Getenv(envName)
	if name == "" {
		return o, nil
	}
	route, err := strconv.Atoi(os.Getenv(envRoute))
	if err != nil {
		return nil, err
	}
	o.ServerName, o.NoLog, o.LogtimeUTC = name, false, true
	o.HTTPHost, o.HTTPPort = "127.0.0.1", -1
	o.Cluster = server.ClusterOpts{
		Name: "natstest-" + os.Getenv(envHidden), Host: "127.0.0.1", Port: route,
		// Nodes tell each other where a third one is, and clients where all are: an
		// address that refuses, so that no route goes past its proxy, and nothing.
		Advertise: os.Getenv(envHidden), NoAdvertise: true,
	}
	for at := range strings.SplitSeq(os.Getenv(envRoutes), ",") {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: at})
	}
	return o, nil
}
