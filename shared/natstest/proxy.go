package natstest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// traffic is what a proxy does with bytes.
type traffic int

const (
	passes  traffic = iota
	held            // nothing passes and nothing closes, as in a network that drops packets
	refused         // connections are closed, and new ones too
)

// proxy is a TCP listener on loopback that hands each connection on to target.
type proxy struct {
	l       net.Listener
	target  string // host:port
	running sync.WaitGroup

	mu     sync.Mutex
	state  traffic
	open   chan struct{} // closed while traffic is not held
	conns  map[net.Conn]chan struct{}
	ended  bool
	passed int // bytes handed on
}

// newProxy returns a proxy that ends with tb.
func newProxy(tb testing.TB, target string) *proxy {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen for a proxy: %v", err)
	}
	p := &proxy{l: l, target: target, open: make(chan struct{}), conns: map[net.Conn]chan struct{}{}}
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

// serve joins c and the target until one of them, or the proxy, closes.
func (p *proxy) serve(c net.Conn, gone <-chan struct{}) {
	defer p.drop(c)
	if !p.pass(gone) { // while traffic is held the target hears of nobody
		return
	}
	t, err := new(net.Dialer).Dial("tcp", p.target) // loopback: it answers or refuses at once
	if err != nil {
		return
	}
	tgone := p.keep(t)
	if tgone == nil {
		return
	}
	defer p.drop(t)
	var back sync.WaitGroup
	back.Go(func() {
		p.pump(c, t, gone)
		p.drop(c)
	})
	p.pump(t, c, tgone)
	p.drop(t)
	back.Wait()
}

// pump hands on what src says, until it or dst closes.
func (p *proxy) pump(dst io.Writer, src io.Reader, gone <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !p.pass(gone) {
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
			p.mu.Lock()
			p.passed += n
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// pass waits until traffic passes; false means that the connection was dropped.
func (p *proxy) pass(gone <-chan struct{}) bool {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
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

// count returns how many bytes were handed on.
func (p *proxy) count() int {
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
