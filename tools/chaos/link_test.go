package chaos_test

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// link is the network between one process and the brokers: a TCP proxy that can
// be cut, or swallow all that is sent. A new connection goes to the next broker
// that accepts it.
type link struct {
	l       net.Listener
	targets []string // host:port
	running sync.WaitGroup

	mu    sync.Mutex
	next  int
	cut   bool
	hole  bool
	mend  chan struct{} // closed while it is not a hole
	conns map[net.Conn]bool
	ended bool
	trip  []byte        // cut as soon as the client has sent this
	trips chan struct{} // closed when that has happened
	watch []byte        // what the client is to send
	sent  chan struct{} // closed when it has
}

func newLink(tb testing.TB, urls []string) *link {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	k := &link{l: l, mend: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(k.mend)
	for _, u := range urls {
		k.targets = append(k.targets, strings.TrimPrefix(u, "nats://"))
	}
	k.running.Go(k.accept)
	tb.Cleanup(func() {
		_ = l.Close()
		k.Mend()
		k.mu.Lock()
		k.ended = true
		k.mu.Unlock()
		k.close()
		k.running.Wait()
	})
	return k
}

func (k *link) url() string { return "nats://" + k.l.Addr().String() }

// Cut closes what is open and lets nothing through.
func (k *link) Cut() {
	k.mu.Lock()
	k.cut = true
	k.mu.Unlock()
	k.close()
}

// Hole keeps everything open and carries nothing.
func (k *link) Hole() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hole, k.mend = true, make(chan struct{})
}

// Mend ends Cut and Hole; what a hole held back arrives.
func (k *link) Mend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut, k.trip = false, nil
	if k.hole {
		k.hole = false
		close(k.mend)
	}
}

// CutAfter cuts the link once the client has sent text, which still arrives, and
// lets nothing of the answer through. The channel is closed then.
func (k *link) CutAfter(text string) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trip, k.trips = []byte(text), make(chan struct{})
	return k.trips
}

// Sends returns a channel that is closed when the client sends text the next time.
func (k *link) Sends(text string) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watch, k.sent = []byte(text), make(chan struct{})
	return k.sent
}

func (k *link) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		_ = c.Close()
	}
}

func (k *link) accept() {
	for {
		c, err := k.l.Accept()
		if err != nil {
			return
		}
		k.running.Go(func() { k.serve(c) })
	}
}

// keep counts c as the link's, unless it is cut.
func (k *link) keep(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut || k.ended {
		_ = c.Close()
		return false
	}
	k.conns[c] = true
	return true
}

func (k *link) drop(c net.Conn) {
	_ = c.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}

func (k *link) serve(c net.Conn) {
	if !k.keep(c) {
		return
	}
	defer k.drop(c)
	b := k.dial()
	if b == nil {
		return
	}
	if !k.keep(b) {
		return
	}
	defer k.drop(b)
	var both sync.WaitGroup
	both.Go(func() { k.copy(b, c, true) })
	both.Go(func() { k.copy(c, b, false) })
	both.Wait()
}

func (k *link) dial() net.Conn {
	for range k.targets {
		k.mu.Lock()
		at := k.targets[k.next%len(k.targets)]
		k.next++
		k.mu.Unlock()
		if c, err := net.DialTimeout("tcp", at, time.Second); err == nil {
			return c
		}
	}
	return nil
}

func (k *link) copy(to, from net.Conn, up bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !k.pass(to, buf[:n], up) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass writes b when the link is whole, and waits while it is a hole.
func (k *link) pass(to io.Writer, b []byte, up bool) bool {
	k.mu.Lock()
	mend := k.mend
	tripped := up && k.trip != nil && bytes.Contains(b, k.trip)
	if tripped {
		k.trip, k.cut = nil, true // before it is sent: nothing of the answer shall pass
	}
	cut := k.cut && !tripped
	k.mu.Unlock()
	if cut {
		return false
	}
	<-mend
	if _, err := to.Write(b); err != nil {
		return false
	}
	k.mu.Lock()
	if up && k.watch != nil && bytes.Contains(b, k.watch) {
		k.watch = nil
		close(k.sent)
	}
	k.mu.Unlock()
	if tripped {
		k.mu.Lock()
		close(k.trips)
		k.mu.Unlock()
		k.close()
		return false
	}
	return true
}
