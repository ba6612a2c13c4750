package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/services/webhook"
	"github.com/droverhq/drover/shared/retry"
)

// canary is an HTTP server on every address of this machine that must stay alone.
func canary(tb testing.TB) (port uint16, hits *atomic.Int64) {
	tb.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		tb.Fatal(err)
	}
	hits = new(atomic.Int64)
	s := &httptest.Server{Listener: l, Config: &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler:           http.NotFoundHandler(),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				hits.Add(1)
			}
		},
	}}
	s.Start()
	tb.Cleanup(s.Close)
	return portOf(tb, s.URL), hits
}

// Each %d is a port that is open in the configuration and answered by the canary,
// so that it is the address that is refused.
var forbidden = []string{
	// This machine.
	"http://127.0.0.1:%d/", "https://127.0.0.1:%d/", "http://127.0.0.2:%d/", "http://127.255.255.254:%d/",
	"http://localhost:%d/", "http://LOCALHOST:%d/", "http://localhost.:%d/", "http://sub.localhost:%d/",
	"http://0.0.0.0:%d/", "http://0.1.2.3:%d/", "http://[::]:%d/", "http://[::1]:%d/", "http://[0:0:0:0:0:0:0:1]:%d/",
	"http://[0000::0001]:%d/", "http://127.0.0.1.:%d/",
	// The same, spelt so that some resolvers read it and some filters do not.
	"http://2130706433:%d/", "http://0x7f000001:%d/", "http://0X7F000001:%d/", "http://017700000001:%d/",
	"http://0177.0.0.1:%d/", "http://0x7f.0.0.1:%d/", "http://0x7f.0x0.0x0.0x1:%d/", "http://127.1:%d/", "http://127.0.1:%d/",
	"http://127.0.0.01:%d/", "http://127.0.0.0x1:%d/", "http://00000127.0.0.1:%d/", "http://0:%d/", "http://0x0:%d/",
	"http://127.0.0.1.0:%d/", "http://4294967297:%d/", "http://256.256.256.256:%d/", "http://0x:%d/", "http://2130706433.:%d/",
	"http://127。0。0。1:%d/", "http://①②⑦.⓪.⓪.①:%d/", "http://１２７.０.０.１:%d/", "http://ｌｏｃａｌｈｏｓｔ:%d/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:%d/",
	// IPv4 inside IPv6.
	"http://[::ffff:127.0.0.1]:%d/", "http://[::ffff:7f00:1]:%d/", "http://[0:0:0:0:0:ffff:7f00:0001]:%d/",
	"http://[::ffff:169.254.169.254]:%d/", "http://[::ffff:10.0.0.1]:%d/", "http://[::ffff:0:127.0.0.1]:%d/",
	"http://[::127.0.0.1]:%d/", "http://[::7f00:1]:%d/",
	"http://[64:ff9b::127.0.0.1]:%d/", "http://[64:ff9b::7f00:1]:%d/", "http://[64:ff9b::a9fe:a9fe]:%d/",
	"http://[64:ff9b:1::7f00:1]:%d/", "http://[64:ff9b:1:ffff::a00:1]:%d/",
	"http://[2002:7f00:1::]:%d/", "http://[2002:a9fe:a9fe::1]:%d/", "http://[2002:a00:1::]:%d/",
	"http://[2001:0:7f00:1::]:%d/", "http://[2001::1]:%d/", "http://[fe80::5efe:7f00:1]:%d/",
	// Private networks.
	"http://10.0.0.1:%d/", "http://10.255.255.255:%d/", "http://172.16.0.1:%d/", "http://172.31.255.255:%d/",
	"http://192.168.0.1:%d/", "http://192.168.255.255:%d/", "http://100.64.0.1:%d/", "http://100.127.255.255:%d/",
	"http://[fc00::1]:%d/", "http://[fd12:3456:789a::1]:%d/", "http://[fec0::1]:%d/",
	// Link-local.
	"http://169.254.0.1:%d/", "http://[fe80::1]:%d/", "http://[fe80::1%%25lo]:%d/", "http://[fe80::1%%25eth0]:%d/", "http://[::1%%25lo]:%d/",
	// Metadata services.
	"http://169.254.169.254:%d/latest/meta-data/", "http://169.254.170.2:%d/v2/credentials", "http://[fd00:ec2::254]:%d/latest/meta-data/",
	"http://100.100.100.200:%d/latest/meta-data/", "http://192.0.0.192:%d/opc/v2/instance/", "http://168.63.129.16:%d/machine",
	"http://0xa9fea9fe:%d/", "http://2852039166:%d/", "http://0251.0376.0251.0376:%d/", "http://169.254.43518:%d/",
	"http://metadata.google.internal:%d/", "http://metadata:%d/",
	// Reserved for other things.
	"http://192.0.2.1:%d/", "http://198.51.100.1:%d/", "http://203.0.113.1:%d/", "http://198.18.0.1:%d/", "http://198.19.255.255:%d/",
	"http://192.88.99.1:%d/", "http://224.0.0.1:%d/", "http://239.255.255.250:%d/", "http://240.0.0.1:%d/", "http://255.255.255.255:%d/",
	"http://[ff02::1]:%d/", "http://[2001:db8::1]:%d/", "http://[3fff::1]:%d/", "http://[100::1]:%d/", "http://[5f00::1]:%d/", "http://[4000::1]:%d/",
	// Names that resolve to what they should not.
	"http://loop.test:%d/", "http://loop6.test:%d/", "http://mapped.test:%d/", "http://nat64.test:%d/", "http://private.test:%d/",
	"http://link.test:%d/", "http://mixed.test:%d/", "https://loop.test:%d/", "http://127.0.0.1.nip.test:%d/", "http://xn--lcalhost-sta.test:%d/",
	// Confusing authority.
	"http://93.184.216.34@127.0.0.1:%d/", "http://127.0.0.1:%d@127.0.0.1:%[1]d/", "http://user:secret@hooks.example.com:%d/",
	// No other scheme, no other port.
	"ftp://127.0.0.1:%d/", "gopher://127.0.0.1:%d/_x", "ws://127.0.0.1:%d/", "unix://127.0.0.1:%d/", "//127.0.0.1:%d/", "http:127.0.0.1:%d",
	"file:///etc/passwd", "javascript:alert(1)", "data:text/plain,x", "", "/", "http://", "https://", "http:///path", "https://:%d/",
	"http://93.184.216.34/", "http://93.184.216.34:443/", "https://93.184.216.34:80/", "https://93.184.216.34:22/",
	"https://93.184.216.34:4222/", "https://93.184.216.34:0/", "https://93.184.216.34:65536/", "https://93.184.216.34:99999999999999999999/",
}

// names are what the resolver of this test knows; every other name is loopback.
func names(name string) []netip.Addr {
	switch name {
	case "loop6.test":
		return addrs("::1")
	case "mapped.test":
		return addrs("::ffff:127.0.0.1")
	case "nat64.test":
		return addrs("64:ff9b::7f00:1")
	case "private.test":
		return addrs("10.1.2.3")
	case "link.test", "metadata.google.internal", "metadata":
		return addrs("169.254.169.254")
	case "mixed.test":
		return addrs("::1", "127.0.0.1", "10.0.0.1")
	}
	return addrs("127.0.0.1")
}

func addrs(in ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range in {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestForbidden(t *testing.T) {
	t.Parallel()
	port, hits := canary(t)
	d := open(t, webhook.Config{Secrets: "default=" + newKey, Ports: []uint16{443, port}})
	d.SetResolver(resolver(t, names))
	t.Cleanup(func() {
		if n := hits.Load(); n != 0 {
			t.Errorf("the canary was reached %d times", n)
		}
	})
	for _, format := range forbidden {
		raw := strings.ReplaceAll(format, "%%", "%")
		if strings.Contains(format, "%d") {
			raw = fmt.Sprintf(format, port)
		}
		t.Run(raw, func(t *testing.T) {
			t.Parallel()
			err := d.Deliver(t.Context(), webhook.Deliver{URL: raw})
			if !errors.Is(err, webhook.ErrRefused) || !retry.IsPermanent(err) {
				t.Errorf("Deliver = %v, want a permanent ErrRefused", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret@") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
	if n := len(forbidden); n < 80 {
		t.Errorf("only %d URLs", n)
	}
}

func TestMalformedURL(t *testing.T) {
	t.Parallel()
	d := open(t, webhook.Config{Secrets: "default=" + newKey})
	for _, raw := range []string{
		"https://hooks.example.com/\r\nHost: evil", "https://hooks.example.com/\x00", "https://hooks.example.com\n", "https://exa mple.com/",
		"https://%31%32%37.0.0.1/", "https://[::1/", "https://::1/", "https://[127.0.0.1/", "https://hooks.example.com:x/", "https://a\\@127.0.0.1/",
		"https://hooks.example.com/%zz?token=topsecret", "https://hooks.example.com/" + strings.Repeat("x", 5000), ":", "127.0.0.1:443", "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
	} {
		err := d.Deliver(t.Context(), webhook.Deliver{URL: raw})
		if !retry.IsPermanent(err) {
			t.Errorf("Deliver to %.60q = %v, want a permanent error", raw, err)
		}
		if err != nil && (strings.Contains(err.Error(), "topsecret") || strings.ContainsAny(err.Error(), "\r\n\x00")) {
			t.Errorf("the error shows too much: %q", err)
		}
	}
}

// The guard lets the rest of the internet through: the delivery ends because it
// is cancelled, not because it is refused.
func TestAllowed(t *testing.T) {
	t.Parallel()
	d := open(t, webhook.Config{Secrets: "default=" + newKey, Ports: []uint16{443, 80, 8443}})
	cause := errors.New("stop before the dial")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for _, raw := range []string{
		"https://hooks.example.com/a?b=c", "https://hooks.example.com", "https://hooks.example.com:8443/", "http://hooks.example.com/", "https://münchen.example/",
		"https://1.1.1.1/", "https://93.184.216.34/", "https://[2606:4700:4700::1111]/", "https://126.255.255.255/", "https://128.0.0.1/",
		"https://9.255.255.255/", "https://11.0.0.0/", "https://172.15.255.255/", "https://172.32.0.0/", "https://192.167.255.255/", "https://192.169.0.0/",
		"https://100.63.255.255/", "https://100.128.0.0/", "https://169.253.255.255/", "https://169.255.0.0/", "https://198.17.255.255/", "https://198.20.0.0/",
		"https://223.255.255.255/", "https://168.63.129.17/", "https://127.0.0.1.example.com/", "https://x0x7f/",
	} {
		if err := d.Deliver(ctx, webhook.Deliver{URL: raw}); !errors.Is(err, cause) || retry.IsPermanent(err) {
			t.Errorf("Deliver to %s = %v, want the cause of the cancellation", raw, err)
		}
	}
}

// A name is judged at every connection, whatever it resolved to before.
func TestRebinding(t *testing.T) {
	t.Parallel()
	port, hits := canary(t)
	first := netip.MustParsePrefix("127.0.0.1/32")
	d := open(t, webhook.Config{Secrets: "default=" + newKey, Ports: []uint16{port}, Allow: []netip.Prefix{first}})
	var turn atomic.Int64
	d.SetResolver(resolver(t, func(string) []netip.Addr {
		if turn.Load() == 0 {
			return addrs("127.0.0.1")
		}
		return addrs("127.0.0.2")
	}))
	url := fmt.Sprintf("http://rebind.test:%d/", port)
	if err := d.Deliver(t.Context(), webhook.Deliver{URL: url}); err == nil || !strings.Contains(err.Error(), "answered 404") {
		t.Fatalf("Deliver = %v, want the canary's 404: it must be reachable for this test to mean anything", err)
	}
	turn.Store(1)
	if err := d.Close(); err != nil { // else the next delivery uses the connection that was judged
		t.Fatal(err)
	}
	before := hits.Load()
	if err := d.Deliver(t.Context(), webhook.Deliver{URL: url}); !errors.Is(err, webhook.ErrRefused) || !retry.IsPermanent(err) {
		t.Errorf("Deliver after rebinding = %v, want ErrRefused", err)
	}
	if n := hits.Load(); n != before {
		t.Error("the canary was reached after rebinding")
	}
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	port, hits := canary(t)
	for _, code := range []int{301, 302, 303, 307, 308, 300, 304} {
		for _, to := range []string{fmt.Sprintf("http://127.0.0.2:%d/", port), "/elsewhere", ""} {
			r := receive(t, func(w http.ResponseWriter, _ *http.Request) {
				if to != "" {
					w.Header().Set("Location", to)
				}
				w.WriteHeader(code)
			})
			c := config(r)
			c.Ports = append(c.Ports, port)
			err := open(t, c).Deliver(t.Context(), webhook.Deliver{URL: r.URL})
			if !retry.IsPermanent(err) || !strings.Contains(err.Error(), "redirects are not followed") {
				t.Errorf("Deliver answered %d = %v", code, err)
			}
			if n := len(r.requests()); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		}
	}
	if hits.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

// A proxy would resolve names itself, out of the guard's sight. (Not parallel: it
// sets the environment.)
func TestNoProxy(t *testing.T) {
	port, hits := canary(t)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, fmt.Sprintf("http://127.0.0.1:%d", port))
	}
	r := receive(t, nil)
	d := open(t, config(r))
	d.SetResolver(resolver(t, names)) // a proxy for 127.0.0.1 itself would be passed by in any case
	url := fmt.Sprintf("https://example.com:%d/", r.Port)
	if err := d.Deliver(t.Context(), webhook.Deliver{URL: url}); err != nil {
		t.Fatal(err)
	}
	if len(r.requests()) != 1 || hits.Load() != 0 {
		t.Error("the proxy was used")
	}
}
