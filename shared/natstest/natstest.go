// Package natstest gives a test a real nats-server: inside the test process, on
// a real or a fake clock, or as a child process that the test can kill.
//
// # Concurrency
//
// Tests on servers of their own may run in parallel. Bubbles may not: see [Bubble].
package natstest

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// nats-server shares one access-time ticker between all servers of a process. It
// has to be running before the first bubble: started inside one it would belong
// to that bubble, and hold its clock still.
func init() { ats.Register() }

const readyWithin = 20 * time.Second // a loaded machine; normally 2 ms

// JetStream starts a server without a port for tb alone and returns a JetStream
// context connected to it in memory. All of it is gone when tb ends.
func JetStream(tb testing.TB) jetstream.JetStream {
	tb.Helper()
	return connect(tb, serve(tb, &server.Options{DontListen: true, StoreDir: tb.TempDir()}))
}

// Listen is JetStream on a loopback port that the system picks, for child
// processes to connect to. It returns the server's URL as well.
func Listen(tb testing.TB) (url string, js jetstream.JetStream) {
	tb.Helper()
	s := serve(tb, &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, StoreDir: tb.TempDir()})
	return s.ClientURL(), connect(tb, s)
}

// Bubble runs f in a synctest bubble with a server of its own, so that the clock
// of the server is as fake as f's: hours of ack-wait and backoff pass in
// milliseconds, at exact times. The bubble fails when f leaves a goroutine
// behind. A test that uses it must not be parallel; in f use the variants of
// nats.go that take a context, because the others keep timers in a pool.
func Bubble(t *testing.T, f func(*testing.T, jetstream.JetStream)) {
	t.Helper()
	dir := t.TempDir() // outside: its removal would race the end of the bubble
	synctest.Test(t, func(t *testing.T) {
		f(t, connect(t, serve(t, &server.Options{DontListen: true, StoreDir: dir})))
	})
	// A pooled timer that was made in this bubble is fatal in the next one; two
	// collections empty a sync.Pool.
	runtime.GC()
	runtime.GC()
}

func serve(tb testing.TB, o *server.Options) *server.Server {
	tb.Helper()
	o.JetStream = true
	return Serve(tb, o)
}

// Serve starts a server with o, without signals and logs, for tb alone.
func Serve(tb testing.TB, o *server.Options) *server.Server {
	tb.Helper()
	o.NoSigs, o.NoLog = true, true
	if o.ServerName == "" {
		o.ServerName = "natstest"
	}
	s, err := server.NewServer(o)
	if err != nil {
		tb.Fatalf("start nats-server: %v", err)
	}
	s.Start()
	tb.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(readyWithin) {
		tb.Fatalf("start nats-server: not ready after %v", readyWithin)
	}
	return s
}

func connect(tb testing.TB, s *server.Server, opts ...nats.Option) jetstream.JetStream {
	tb.Helper()
	nc, err := nats.Connect("", append(opts, nats.InProcessServer(s), nats.MaxReconnects(-1))...)
	if err != nil {
		tb.Fatalf("connect to nats-server: %v", err)
	}
	tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatalf("connect to nats-server: %v", err)
	}
	return js
}
