package natstest

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// echo answers with what it is told, and returns its address.
func echo(tb testing.TB) string {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}

const long, short = 5 * time.Second, 50 * time.Millisecond

func dialed(tb testing.TB, p *proxy) net.Conn {
	tb.Helper()
	c, err := new(net.Dialer).DialContext(tb.Context(), "tcp", p.addr())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// say sends text, if any, and returns what comes back within the limit.
func say(tb testing.TB, c net.Conn, text string, limit time.Duration) (string, error) {
	tb.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		tb.Fatal(err)
	}
	buf := make([]byte, 16)
	n, err := c.Read(buf)
	return string(bytes.TrimSpace(buf[:n])), err
}

func TestProxy(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t))
	dial := func() net.Conn { return dialed(t, p) }

	c := dial()
	if got, err := say(t, c, "one", long); got != "one" || err != nil {
		t.Errorf("through the proxy: %q, %v, want one", got, err)
	}
	p.set(held)
	late := dial()
	for name, c := range map[string]net.Conn{"an old": c, "a new": late} {
		if got, err := say(t, c, "two", short); got != "" || !isTimeout(err) {
			t.Errorf("%s connection through a black hole: %q, %v, want nothing and no end", name, got, err)
		}
	}
	p.set(passes)
	for name, c := range map[string]net.Conn{"an old": c, "a new": late} {
		if got, err := say(t, c, "", long); got != "two" || err != nil {
			t.Errorf("%s connection after the black hole: %q, %v, want what was held", name, got, err)
		}
	}
	p.set(refused)
	for name, c := range map[string]net.Conn{"an old": c, "a new": dial()} {
		if got, err := say(t, c, "", long); got != "" || err == nil || isTimeout(err) {
			t.Errorf("%s connection that is cut: %q, %v, want its end", name, got, err)
		}
	}
	p.set(passes)
	if got, err := say(t, dial(), "three", long); got != "three" || err != nil {
		t.Errorf("after the cut: %q, %v, want three", got, err)
	}
	p.set(held)
	if got, err := say(t, dial(), "four", short); got != "" || !isTimeout(err) {
		t.Errorf("in the second black hole: %q, %v, want nothing", got, err)
	}
	// The end of the test closes what is held.
}

// Of two targets the one that is there is found, and a wire is tripped once, by the
// side that dials.
func TestWire(t *testing.T) {
	t.Parallel()
	p := newProxy(t, nowhere(t), echo(t))
	tripped := func(seen <-chan struct{}) bool {
		select {
		case <-seen:
			return true
		default:
			return false
		}
	}

	c := dialed(t, p)
	told := p.when("two", false)
	if got, err := say(t, c, "one", long); got != "one" || err != nil || tripped(told) {
		t.Errorf("beside the wire: %q, %v, tripped %v, want one", got, err, tripped(told))
	}
	if got, err := say(t, c, "and two", long); got != "and two" || err != nil {
		t.Errorf("through the wire: %q, %v, want it to pass", got, err)
	}
	waitFor(t, told)

	cut := p.when("three", true)
	other := dialed(t, p)
	before := p.total()
	if got, err := say(t, c, "three", long); got != "" || err == nil || isTimeout(err) {
		t.Errorf("through the wire that cuts: %q, %v, want no answer and the end", got, err)
	}
	waitFor(t, cut)
	if n := p.total() - before; n != len("three") {
		t.Errorf("%d bytes have passed, want those of three, and none of the answer", n)
	}
	for name, c := range map[string]net.Conn{"another": other, "a new": dialed(t, p)} {
		if got, err := say(t, c, "", long); got != "" || err == nil || isTimeout(err) {
			t.Errorf("%s connection after the cut: %q, %v, want its end", name, got, err)
		}
	}
	p.set(passes)
	for range 2 { // the wire is gone, and both targets are tried
		if got, err := say(t, dialed(t, p), "three", long); got != "three" || err != nil {
			t.Errorf("after it was mended: %q, %v, want three", got, err)
		}
	}
}

func waitFor(tb testing.TB, seen <-chan struct{}) {
	tb.Helper()
	select {
	case <-seen:
	case <-time.After(long):
		tb.Error("the wire is not tripped")
	}
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error) //nolint:errorlint // what net.Conn returns
	return ok && ne.Timeout()
}
