package dev_test

import (
	"errors"
	"net"
	"net/smtp"
	"net/textproto"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/tools/dev"
)

const text = "From: a@example.org\r\nMessage-ID: <1.0@example.org>\r\nSubject: Hello\r\n\r\nIt works.\r\n"

func TestMailServer(t *testing.T) {
	t.Parallel()
	named, taken := make(chan string, 4), make(chan dev.Mail, 2)
	m, err := dev.ListenMail(t.Context(), dev.MailOptions{
		Rcpt:  func(to string, _ time.Time) { named <- to },
		Taken: func(m dev.Mail) { taken <- m },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	send := func(to string) int {
		t.Helper()
		err := smtp.SendMail(m.Addr(), nil, "a@example.org", []string{to}, []byte(text))
		if e, ok := errors.AsType[*textproto.Error](err); ok {
			return e.Code
		}
		if err != nil {
			t.Errorf("send to %s: %v", to, err)
		}
		return 250
	}
	got := []int{send("bounce-1@example.org"), send("busy-1@example.org"), send("busy-1@example.org"), send("ann@example.org")}
	if d := cmp.Diff([]int{550, 451, 250, 250}, got); d != "" {
		t.Errorf("answers (-want +got):\n%s", d)
	}
	if n := m.Total(); n != 2 {
		t.Errorf("Total() = %d, want 2", n)
	}
	for _, want := range []string{"bounce-1@example.org", "busy-1@example.org", "busy-1@example.org", "ann@example.org"} {
		if got := <-named; got != want {
			t.Errorf("recipient %s was named, want %s", got, want)
		}
	}
	mail := m.Last()[1]
	if mail.At.IsZero() || mail.Size == 0 {
		t.Errorf("mail = %+v, want a time and a size", mail)
	}
	mail.At, mail.Size = time.Time{}, 0
	want := dev.Mail{From: "a@example.org", To: []string{"ann@example.org"}, MessageID: "1.0@example.org", Subject: "Hello"}
	if d := cmp.Diff(want, mail); d != "" {
		t.Errorf("last mail (-want +got):\n%s", d)
	}
	if first := <-taken; first.To[0] != "busy-1@example.org" {
		t.Errorf("first mail is to %v", first.To)
	}
}

func TestPortFallback(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	port := l.Addr().(*net.TCPAddr).Port
	if m, err := dev.ListenMail(t.Context(), dev.MailOptions{Port: port}); err == nil {
		m.Close()
		t.Error("ListenMail on a taken port = nil")
	}
	m, err := dev.ListenMail(t.Context(), dev.MailOptions{Port: port, Fallback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, p, _ := net.SplitHostPort(m.Addr()); p == strconv.Itoa(port) {
		t.Errorf("Addr() = %s, want another port", m.Addr())
	}
}
