package natstest

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// traffic is what a proxy does with bytes.
type traffic int

const (
	passes  traffic = iota
	held            // nothing passes and nothing closes, as in a network that drops packets
	refused         // connections are closed, and new ones too
)

// proxy is a TCP listener on loopback that hands each connection on to the next of
// its targets that takes it.
type proxy struct {
	l       net.Listener
	targets []string // host:port
	running sync.WaitGroup

	mu     sync.Mutex
	state  traffic
	open   chan struct{} // closed while traffic is not held
	conns  map[net.Conn]chan struct{}
	ended  bool
	passed int   // bytes handed on
	next   int   // target
	wire   *wire // nil: none
}

// wire is tripped once, when the side that dials says text.
type wire struct {
	text []byte
	cuts bool          // nothing passes after text
	seen chan struct{} // closed once text was handed on
}

// newProxy returns a proxy that ends with tb.
func newProxy(tb testing.TB, targets ...string) *proxy {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen for a proxy: %v", err)
	}
	p := &proxy{l: l, targets: targets, open: make(chan struct{}), conns: map[net.Conn]chan struct{}{}}
	close(p.open)
	p.running.Go(p.accept)
	tb.Cleanup(p.end)
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil { // it was ended
			return
		}
		if gone := p.keep(c); gone != nil {
			p.running.Go(func() { p.serve(c, gone) })
		}
	}
}

// keep counts c as one of the proxy's, and returns a channel that is closed when
// the proxy drops it; nil when it is dropped at once.
func (p *proxy) keep(c net.Conn) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.state == refused {
		_ = c.Close()
		return nil
	}
	gone := make(chan struct{})
	p.conns[c] = gone
	return gone
}

// serve joins c and a target until one of them, or the proxy, closes.
func (p *proxy) serve(c net.Conn, gone <-chan struct{}) {
	defer p.drop(c)
	if !p.pass(gone) { // while traffic is held the target hears of nobody
		return
	}
	t := p.dial()
	if t == nil {
		return
	}
	tgone := p.keep(t)
	if tgone == nil {
		return
	}
	defer p.drop(t)
	var back sync.WaitGroup
	back.Go(func() {
		p.pump(c, t, gone, func([]byte) *wire { return nil })
		p.drop(c)
	})
	p.pump(t, c, tgone, p.trip)
	p.drop(t)
	back.Wait()
}

// dial returns a connection to the next target that takes it, or nil.
func (p *proxy) dial() net.Conn {
	for range p.targets {
		p.mu.Lock()
		at := p.targets[p.next%len(p.targets)]
		p.next++
		p.mu.Unlock()
		if c, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", at); err == nil { // loopback: it answers or refuses at once
			return c
		}
	}
	return nil
}

// pump hands on what src says, until it or dst closes.
func (p *proxy) pump(dst io.Writer, src io.Reader, gone <-chan struct{}, trip func([]byte) *wire) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !p.pass(gone) {
				return
			}
			w := trip(buf[:n])
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
			p.count(n, w)
		}
		if err != nil {
			return
		}
	}
}

// trip returns the wire that b trips, if it does. Nothing of an answer to b passes
// one that cuts: that is so before b is handed on.
func (p *proxy) trip(b []byte) *wire {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.wire
	if w == nil || !bytes.Contains(b, w.text) {
		return nil
	}
	p.wire = nil
	if w.cuts {
		p.state = refused
	}
	return w
}

// count counts bytes that were handed on, and with them what tripped w.
func (p *proxy) count(n int, w *wire) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed += n
	if w == nil {
		return
	}
	close(w.seen)
	if w.cuts {
		p.dropAll()
	}
}

// pass waits until traffic passes; false means that the connection was dropped, or
// is about to be.
func (p *proxy) pass(gone <-chan struct{}) bool {
	p.mu.Lock()
	open, cut := p.open, p.state == refused
	p.mu.Unlock()
	if cut {
		return false
	}
	select {
	case <-open:
		return true
	case <-gone:
		return false
	}
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if gone := p.conns[c]; gone != nil {
		delete(p.conns, c)
		close(gone)
		_ = c.Close()
	}
}

// set changes what the proxy does from now on. What was held is handed on by
// passes and lost by refused.
func (p *proxy) set(to traffic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || to == p.state {
		return
	}
	if p.state == held {
		close(p.open)
	}
	if to == held {
		p.open = make(chan struct{})
	}
	p.state = to
	if to == refused {
		p.dropAll()
	}
}

// dropAll closes every connection. p.mu is held.
func (p *proxy) dropAll() {
	for c, gone := range p.conns {
		delete(p.conns, c)
		close(gone)
		_ = c.Close()
	}
}

// when has the next wire tripped by text; it replaces another.
func (p *proxy) when(text string, cuts bool) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wire = &wire{[]byte(text), cuts, make(chan struct{})}
	return p.wire.seen
}

// total returns how many bytes were handed on.
func (p *proxy) total() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// ends returns the addresses that the two sides of every connection see.
func (p *proxy) ends() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := []string{p.addr()}
	for c := range p.conns {
		at = append(at, c.LocalAddr().String())
	}
	return at
}

func (p *proxy) end() {
	_ = p.l.Close()
	p.mu.Lock()
	p.ended = true
	p.dropAll()
	p.mu.Unlock()
	p.running.Wait()
}
