package email_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/droverhq/drover/services/email"
	"github.com/droverhq/drover/services/internal/relay"
	"github.com/droverhq/drover/shared/task"
)

// server is a real SMTP server on a loopback port that keeps what it takes in.
type server struct {
	Addr  string
	conns atomic.Int64 // accepted so far
	ended chan struct{}

	// Replies; nil means yes. Set before the first mail.
	onMail func(from string) error
	onRcpt func(to string) error
	onData func(n int) error // n counts messages, from 1

	mu    sync.Mutex
	mails []mail
	open  map[net.Conn]struct{}
}

// mail is what the server took in.
type mail struct {
	From string
	To   []string
	Data []byte
	UTF8 bool // SMTPUTF8 was asked for
}

// serve starts a server; tweak may change it before it serves.
func serve(tb testing.TB, tweak ...func(*server, *smtp.Server)) *server {
	tb.Helper()
	s := &server{ended: make(chan struct{}, 100), open: map[net.Conn]struct{}{}}
	srv := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{server: s}, nil }))
	srv.Domain, srv.AllowInsecureAuth = "test", true
	srv.ErrorLog = log.New(io.Discard, "", 0)
	for _, f := range tweak {
		f(s, srv)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.Addr = l.Addr().String()
	l = &countingListener{Listener: l, server: s}
	if srv.Domain == "implicit" {
		l = tls.NewListener(l, srv.TLSConfig)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	tb.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
	})
	return s
}

type countingListener struct {
	net.Listener

	server *server
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.server.conns.Add(1)
		l.server.mu.Lock()
		l.server.open[c] = struct{}{}
		l.server.mu.Unlock()
	}
	return c, err
}

// hangUp closes every connection, as a restart does.
func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_ = c.Close()
	}
	clear(s.open)
}

func (s *server) taken() []mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]mail(nil), s.mails...)
}

type session struct {
	server *server
	mail   mail
}

var _ smtp.AuthSession = (*session)(nil)

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "drover" || password != "correct horse" {
			return smtp.ErrAuthFailed
		}
		return nil
	}), nil
}

func (s *session) Reset() { s.mail = mail{} }

func (s *session) Logout() error {
	s.server.ended <- struct{}{}
	return nil
}

func (s *session) Mail(from string, o *smtp.MailOptions) error {
	s.mail.From, s.mail.UTF8 = from, o.UTF8
	if s.server.onMail != nil {
		return s.server.onMail(from)
	}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.server.onRcpt != nil {
		if err := s.server.onRcpt(to); err != nil {
			return err
		}
	}
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	var err error
	if s.mail.Data, err = io.ReadAll(r); err != nil {
		return err
	}
	s.server.mu.Lock()
	s.server.mails = append(s.server.mails, s.mail)
	n := len(s.server.mails)
	s.server.mu.Unlock()
	if s.server.onData != nil {
		return s.server.onData(n)
	}
	return nil
}

// reply is an error that the server answers with.
func reply(code int, text string) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.NoEnhancedCode, Message: text}
}

// config is what most tests send with.
func config(addr string) email.Config {
	return email.Config{Addr: addr, TLS: relay.NoTLS, From: "Drover <noreply@example.com>", Timeout: 5 * time.Second}
}

func open(tb testing.TB, c email.Config) *email.Sender {
	tb.Helper()
	s, err := email.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// hello is a mail without a flaw.
func hello() email.Send {
	return email.Send{To: email.Addresses{"ann@example.org"}, Subject: "hello", Text: "hi"}
}

func inTask(tb testing.TB, info task.Info) context.Context {
	tb.Helper()
	return task.NewContext(tb.Context(), &info)
}

// certificate makes a key pair for 127.0.0.1 and a file with the certificate.
func certificate(tb testing.TB) (pair tls.Certificate, file string) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	var b bytes.Buffer
	file = filepath.Join(tb.TempDir(), "ca.pem")
	if err := errors.Join(pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}), os.WriteFile(file, b.Bytes(), 0o600)); err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}
