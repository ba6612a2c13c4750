package dev

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/mail"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Mail is one mail that the server took in.
type Mail struct {
	At        time.Time
	From      string
	To        []string
	MessageID string // without angle brackets
	Subject   string
	Size      int // bytes
}

// MailOptions say how a [MailServer] behaves. The zero value is one on a free port.
type MailOptions struct {
	Port     int           // on 127.0.0.1; 0 means any free one
	Fallback bool          // take any free port when Port is taken
	Delay    time.Duration // before a mail is taken in, as servers take their time

	// Rcpt is told of every recipient that is named, and when the mail was begun.
	// nil ignores it. Calls are concurrent.
	Rcpt func(to string, begun time.Time)
	// Taken is told of every mail that is taken in. nil ignores it. Calls are concurrent.
	Taken func(Mail)
}

const (
	maxMail     = 16 << 20 // bytes
	mailTimeout = time.Minute
	maxBusy     = 10_000 // addresses that are remembered to have been put off
)

// MailServer is an SMTP server that delivers to nobody. Make one with [ListenMail].
type MailServer struct {
	o      MailOptions
	l      net.Listener
	server *smtp.Server
	wg     sync.WaitGroup
	closed chan struct{}

	mu    sync.Mutex
	total int
	last  last[Mail]
	busy  map[string]bool // recipients that were put off
}

// ListenMail starts a mail server.
func ListenMail(ctx context.Context, o MailOptions) (*MailServer, error) {
	l, err := listen(ctx, "mail server", o.Port, o.Fallback)
	if err != nil {
		return nil, err
	}
	m := &MailServer{o: o, l: l, closed: make(chan struct{}), busy: map[string]bool{}}
	m.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{server: m}, nil }))
	m.server.Domain, m.server.EnableSMTPUTF8 = "drover.localhost", true
	m.server.MaxMessageBytes, m.server.ReadTimeout, m.server.WriteTimeout = maxMail, mailTimeout, mailTimeout
	m.server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo) // clients that hang up are no news
	m.wg.Go(func() { _ = m.server.Serve(l) })                                  // it ends when it is closed
	return m, nil
}

// Addr is HOST:PORT of the server.
func (m *MailServer) Addr() string { return m.l.Addr().String() }

// Total is how many mails were taken in.
func (m *MailServer) Total() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

// Last returns the last hundred mails, the newest last.
func (m *MailServer) Last() []Mail {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Mail(nil), m.last.all...)
}

// Close ends the server and its connections.
func (m *MailServer) Close() {
	close(m.closed)
	_ = m.server.Close() // nobody is waiting for an answer
	_ = m.l.Close()      // the server knows it only once it serves
	m.wg.Wait()
}

// session is one connection, and the mail that it is at.
type session struct {
	server *MailServer
	begun  time.Time
	mail   Mail
}

func (s *session) Reset()        { s.mail = Mail{} }
func (s *session) Logout() error { return nil }

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.begun, s.mail.From = time.Now(), from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	m := s.server
	if m.o.Rcpt != nil {
		m.o.Rcpt(to, s.begun)
	}
	if strings.HasPrefix(to, "bounce") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user here"}
	}
	if strings.HasPrefix(to, "busy") && m.firstTime(to) {
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "busy, try again later"}
	}
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (m *MailServer) firstTime(to string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy[to] {
		return false
	}
	if len(m.busy) >= maxBusy {
		clear(m.busy)
	}
	m.busy[to] = true
	return true
}

func (s *session) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m := s.server
	if m.o.Delay > 0 {
		select {
		case <-time.After(m.o.Delay):
		case <-m.closed:
		}
	}
	s.mail.At, s.mail.Size = time.Now(), len(data)
	if msg, err := mail.ReadMessage(bufio.NewReader(bytes.NewReader(data))); err == nil {
		s.mail.MessageID = strings.Trim(msg.Header.Get("Message-Id"), "<>")
		s.mail.Subject = msg.Header.Get("Subject")
	}
	m.mu.Lock()
	m.total++
	m.last.add(s.mail)
	m.mu.Unlock()
	if m.o.Taken != nil {
		m.o.Taken(s.mail)
	}
	return nil
}
