package natstest

import (
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Addresses of the two nodes of [TwoNodes].
const (
	Node1 = "127.0.0.1:1"
	Node2 = "127.0.0.1:2"
)

// TwoNodes returns a connection to the server of js, which runs in this process,
// that knows it as two nodes: it is connected to Node1 and goes to the other one
// when it reconnects. dialed returns where it has connected to so far. It works in
// a [Bubble], and is closed when tb ends.
func TwoNodes(tb testing.TB, js jetstream.JetStream) (_ jetstream.JetStream, dialed func() []string) {
	tb.Helper()
	d := &dialer{to: js.Conn().Opts.InProcessServer}
	nc, err := nats.Connect("nats://"+Node1+",nats://"+Node2, nats.SetCustomDialer(d), nats.DontRandomize(), nats.MaxReconnects(-1))
	if err != nil {
		tb.Fatalf("connect to two nodes: %v", err)
	}
	tb.Cleanup(nc.Close)
	js, err = jetstream.New(nc)
	if err != nil {
		tb.Fatalf("connect to two nodes: %v", err)
	}
	return js, d.all
}

type dialer struct {
	to nats.InProcessConnProvider

	mu sync.Mutex
	at []string
}

// Dial connects to the server, whatever addr is.
func (d *dialer) Dial(_, addr string) (net.Conn, error) {
	d.mu.Lock()
	d.at = append(d.at, addr)
	d.mu.Unlock()
	return d.to.InProcessConn()
}

func (d *dialer) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.at)
}
