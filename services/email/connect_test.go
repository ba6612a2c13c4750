package email_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/droverhq/drover/services/internal/relay"
	"github.com/droverhq/drover/services/internal/secret"
	"github.com/droverhq/drover/shared/retry"
)

func withTLS(pair tls.Certificate, domain string) func(*server, *smtp.Server) {
	return func(_ *server, srv *smtp.Server) {
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		srv.Domain, srv.AllowInsecureAuth = domain, false
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	pair, ca := certificate(t)
	_, otherCA := certificate(t)
	for _, tt := range []struct {
		name   string
		domain string // implicit: encrypted from the first byte; plain: never; else after STARTTLS
		mode   relay.TLSMode
		ca     string
		user   string
		pass   secret.Text
		want   string // in the error; "" for none
	}{
		{name: "starttls", mode: relay.StartTLS, ca: ca},
		{name: "starttls is the default", ca: ca},
		{name: "starttls and login", mode: relay.StartTLS, ca: ca, user: "drover", pass: "correct horse"},
		{name: "starttls, wrong password", mode: relay.StartTLS, ca: ca, user: "drover", pass: "battery staple", want: "SMTP AUTH failed: 535"},
		{name: "starttls, unknown authority", mode: relay.StartTLS, want: "certificate signed by unknown authority"},
		{name: "starttls, other authority", mode: relay.StartTLS, ca: otherCA, want: "certificate"},
		{name: "starttls not offered", mode: relay.StartTLS, domain: "plain", ca: ca, want: "does not support STARTTLS"},
		{name: "tls", mode: relay.ImplicitTLS, domain: "implicit", ca: ca},
		{name: "tls and login", mode: relay.ImplicitTLS, domain: "implicit", ca: ca, user: "drover", pass: "correct horse"},
		{name: "tls, unknown authority", mode: relay.ImplicitTLS, domain: "implicit", want: "certificate signed by unknown authority"},
		{name: "tls to a plain server", mode: relay.ImplicitTLS, domain: "plain", ca: ca, want: "first record does not look like a TLS handshake"},
		{name: "plain and login on loopback", mode: relay.NoTLS, domain: "plain", user: "drover", pass: "correct horse"},
		{name: "plain, wrong user", mode: relay.NoTLS, domain: "plain", user: "horse", pass: "correct horse", want: "535"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			if tt.domain != "plain" {
				s = serve(t, withTLS(pair, tt.domain))
			}
			c := config(s.Addr)
			c.TLS, c.CA, c.Username, c.Password = tt.mode, tt.ca, tt.user, tt.pass
			sender := open(t, c)
			for range 2 {
				err := sender.Send(t.Context(), hello())
				if tt.want == "" && err != nil {
					t.Fatal(err)
				}
				if tt.want != "" && (err == nil || retry.IsPermanent(err) || !strings.Contains(err.Error(), tt.want)) {
					t.Fatalf("Send = %v, want a plain error with %q", err, tt.want)
				}
				if tt.pass != "" && err != nil && strings.Contains(err.Error(), string(tt.pass)) {
					t.Errorf("the error shows the password: %v", err)
				}
			}
			if n := s.conns.Load(); tt.want == "" && n != 1 {
				t.Errorf("2 mails took %d connections, want 1", n)
			}
			if n := len(s.taken()); tt.want != "" && n != 0 {
				t.Errorf("the server took %d mails, want none", n)
			}
		})
	}
}

// mute accepts connections, says what it is told to, and nothing after that.
func mute(tb testing.TB, say string) (addr string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.WriteString(c, say)
				_, _ = io.Copy(io.Discard, c) // until the other side gives up
				_ = c.Close()
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func TestHang(t *testing.T) {
	t.Parallel()
	const (
		greet = "220 test\r\n"
		ehlo  = "250 test\r\n"
		yes   = "250 yes\r\n"
		goOn  = "354 go on\r\n"
	)
	for _, tt := range []struct {
		name string
		say  string
		mode relay.TLSMode
		want string
	}{
		{name: "no greeting", mode: relay.NoTLS, want: "connect: server does not answer within 250ms"},
		{name: "half a greeting", say: "220", mode: relay.NoTLS, want: "connect: server does not answer within 250ms"},
		{name: "no answer to ehlo", say: greet, mode: relay.NoTLS, want: "connect: server does not answer within 250ms"},
		{name: "no tls handshake", mode: relay.ImplicitTLS, want: "connect: server does not answer within 250ms"},
		{name: "no answer to starttls", say: greet + "250-test\r\n250 STARTTLS\r\n", mode: relay.StartTLS, want: "connect: server does not answer within 250ms"},
		{name: "no handshake after starttls", say: greet + "250-test\r\n250 STARTTLS\r\n220 go\r\n", mode: relay.StartTLS, want: "connect: server does not answer within 250ms"},
		{name: "no answer to the sender", say: greet + ehlo, mode: relay.NoTLS, want: "sender noreply@example.com: server does not answer"},
		{name: "no answer to a recipient", say: greet + ehlo + yes, mode: relay.NoTLS, want: "recipient ann@example.org: server does not answer"},
		{name: "no answer to data", say: greet + ehlo + yes + yes, mode: relay.NoTLS, want: "begin message: server does not answer"},
		{name: "no answer to the message", say: greet + ehlo + yes + yes + goOn, mode: relay.NoTLS, want: "end message: server does not answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := config(mute(t, tt.say))
			c.TLS, c.Timeout, c.DataTimeout = tt.mode, 250*time.Millisecond, 250*time.Millisecond
			start := time.Now()
			err := open(t, c).Send(t.Context(), hello())
			if err == nil || retry.IsPermanent(err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Send = %v, want a plain error with %q", err, tt.want)
			}
			if d := time.Since(start); d > 3*time.Second { // 250 ms on an idle machine
				t.Errorf("Send took %v", d)
			}
		})
	}
}

// A kept connection that went silent costs a quarter of the limit, and both
// tries together no more than the limit.
func TestHangOfKeptConnection(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	hang, release := false, make(chan struct{})
	s := serve(t, func(s *server, _ *smtp.Server) {
		s.onMail = func(string) error {
			mu.Lock()
			now := hang
			hang = false
			mu.Unlock()
			if now {
				<-release
			}
			return nil
		}
	})
	t.Cleanup(func() { close(release) })
	c := config(s.Addr)
	c.Timeout = 2 * time.Second
	sender := open(t, c)
	if err := sender.Send(t.Context(), hello()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	hang = true
	mu.Unlock()
	start := time.Now()
	if err := sender.Send(t.Context(), hello()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 500*time.Millisecond || d > 2*time.Second {
		t.Errorf("Send took %v, want 500 ms and the time of one mail", d)
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	cause := errors.New("drain")
	for name, say := range map[string]string{"connecting": "", "sending": "220 test\r\n250 test\r\n250 yes\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
			start := time.Now()
			err := open(t, config(mute(t, say))).Send(ctx, hello())
			if !errors.Is(err, cause) || retry.IsPermanent(err) {
				t.Errorf("Send = %v, want the cause of the cancellation", err)
			}
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("Send took %v after it was cancelled", d)
			}
		})
	}
	t.Run("before the start", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := open(t, config(mute(t, ""))).Send(ctx, hello()); !errors.Is(err, cause) {
			t.Errorf("Send = %v, want the cause of the cancellation", err)
		}
	})
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	err = open(t, config(l.Addr().String())).Send(t.Context(), hello())
	if err == nil || retry.IsPermanent(err) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Send = %v", err)
	}
}
