package email_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/services/email"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
)

// parsed is a mail as its receiver sees it.
type parsed struct {
	Header map[string]string // decoded
	Text   string
	HTML   string
}

func parse(tb testing.TB, data []byte) parsed {
	tb.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		tb.Fatalf("parse the mail: %v\n%s", err, data)
	}
	p := parsed{Header: map[string]string{}}
	for k, v := range m.Header {
		if len(v) != 1 {
			tb.Errorf("header %s is there %d times", k, len(v))
		}
		if p.Header[k], err = new(mime.WordDecoder).DecodeHeader(v[0]); err != nil {
			tb.Errorf("header %s: %v", k, err)
		}
	}
	p.part(tb, m.Header.Get("Content-Type"), m.Header.Get("Content-Transfer-Encoding"), m.Body)
	return p
}

func (p *parsed) part(tb testing.TB, contentType, encoding string, r io.Reader) {
	tb.Helper()
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		tb.Fatal(err)
	}
	if kind == "multipart/alternative" {
		for mr := multipart.NewReader(r, params["boundary"]); ; {
			part, err := mr.NextRawPart()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				tb.Fatal(err)
			}
			p.part(tb, part.Header.Get("Content-Type"), part.Header.Get("Content-Transfer-Encoding"), part)
		}
	}
	if encoding != "quoted-printable" || params["charset"] != "UTF-8" {
		tb.Errorf("part %s has encoding %q", contentType, encoding)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(r))
	if err != nil {
		tb.Fatal(err)
	}
	switch kind {
	case "text/plain":
		p.Text = string(body)
	case "text/html":
		p.HTML = string(body)
	default:
		tb.Errorf("part of type %s", kind)
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	s := serve(t)
	ctx := inTask(t, task.Info{ID: "01JD7", Generation: 2, Attempt: 3})
	err := open(t, config(s.Addr)).Send(ctx, email.Send{
		To:      email.Addresses{"Änn Example <ann@example.org>", "bob@example.org"},
		Cc:      email.Addresses{"cc@example.org", "bob@example.org"},
		Bcc:     email.Addresses{"secret@example.org"},
		From:    "Billing <billing@EXAMPLE.com>",
		ReplyTo: "help@example.net",
		Subject: "Your  invoice — größer als 9 €, and so long that it has to be folded over several lines of the header",
		Text:    "Dear Änn,\n.\nthis is line 3\n" + strings.Repeat("long ", 60) + "end",
		HTML:    "<p>Dear <b>Änn</b></p>",
	})
	if err != nil {
		t.Fatal(err)
	}
	mails := s.taken()
	if len(mails) != 1 {
		t.Fatalf("the server took %d mails, want 1", len(mails))
	}
	want := []string{"ann@example.org", "bob@example.org", "cc@example.org", "secret@example.org"}
	if diff := cmp.Diff(want, mails[0].To); diff != "" {
		t.Errorf("recipients (-want +got):\n%s", diff)
	}
	if mails[0].From != "billing@EXAMPLE.com" {
		t.Errorf("sender %q", mails[0].From)
	}
	got := parse(t, mails[0].Data)
	if date, err := netmail.ParseDate(got.Header["Date"]); err != nil || time.Since(date) > time.Minute {
		t.Errorf("date %q: %v", got.Header["Date"], err)
	}
	delete(got.Header, "Date")
	delete(got.Header, "Content-Type")
	if diff := cmp.Diff(parsed{
		Header: map[string]string{
			"From":           `"Billing" <billing@EXAMPLE.com>`,
			"To":             "Änn Example <ann@example.org>, <bob@example.org>",
			"Cc":             "<cc@example.org>, <bob@example.org>",
			"Reply-To":       "<help@example.net>",
			"Subject":        "Your invoice — größer als 9 €, and so long that it has to be folded over several lines of the header",
			"Message-Id":     "<01JD7.2@example.com>",
			"Mime-Version":   "1.0",
			"Auto-Submitted": "auto-generated",
		},
		Text: "Dear Änn,\r\n.\r\nthis is line 3\r\n" + strings.Repeat("long ", 60) + "end",
		HTML: "<p>Dear <b>Änn</b></p>",
	}, got); diff != "" {
		t.Errorf("mail (-want +got):\n%s", diff)
	}
	if bytes.Contains(mails[0].Data, []byte("secret@")) {
		t.Error("the mail shows its bcc")
	}
}

func TestOneBody(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sender := open(t, config(s.Addr))
	text, html := hello(), hello()
	html.Text, html.HTML = "", "<p>hi</p>"
	if err := errors.Join(sender.Send(t.Context(), text), sender.Send(t.Context(), html)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range s.taken() {
		p := parse(t, m.Data)
		got = append(got, p.Text+"|"+p.HTML)
		if p.Header["From"] != `"Drover" <noreply@example.com>` {
			t.Errorf("from %q, want the configured sender", p.Header["From"])
		}
	}
	if diff := cmp.Diff([]string{"hi\r\n|", "|<p>hi</p>\r\n"}, got); diff != "" {
		t.Errorf("bodies (-want +got):\n%s", diff)
	}
}

func TestMessageID(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sender := open(t, config(s.Addr))
	id := func(info task.Info) string {
		if err := sender.Send(inTask(t, info), hello()); err != nil {
			t.Fatal(err)
		}
		return parse(t, s.taken()[len(s.taken())-1].Data).Header["Message-Id"]
	}
	first := id(task.Info{ID: "a b>\x00c", Tenant: "acme"})
	if again := id(task.Info{ID: "a b>\x00c", Tenant: "acme", Attempt: 4}); again != first {
		t.Errorf("Message-ID %q, and %q in a later attempt", first, again)
	}
	seen := []string{first}
	for _, info := range []task.Info{
		{ID: "a b>\x00c", Tenant: "acme", Generation: 1},
		{ID: "a b>\x00c", Tenant: "other"},
		{ID: "a b>\x00c"},
		{ID: "other", Tenant: "acme"},
	} {
		got := id(info)
		if slices.Contains(seen, got) {
			t.Errorf("Message-ID %q is used twice", got)
		}
		seen = append(seen, got)
	}
	for _, got := range seen {
		if a, err := netmail.ParseAddress(got); err != nil || !strings.HasSuffix(a.Address, "@example.com") {
			t.Errorf("Message-ID %q: %v", got, err)
		}
	}
}

func TestReuse(t *testing.T) {
	t.Parallel()
	s := serve(t, func(s *server, _ *smtp.Server) {
		s.onRcpt = func(to string) error {
			if to == "nobody@example.org" {
				return reply(550, "no such user")
			}
			return nil
		}
	})
	sender := open(t, config(s.Addr))
	for i := range 20 {
		mail := hello()
		if i == 7 { // a refused mail does not cost the connection
			mail.To = email.Addresses{"bob@example.org", "nobody@example.org"}
		}
		if err := sender.Send(t.Context(), mail); (err != nil) != (i == 7) {
			t.Fatal(err)
		}
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("20 mails took %d connections, want 1", n)
	}
	mails := s.taken()
	if len(mails) != 19 {
		t.Errorf("the server took %d mails, want 19", len(mails))
	}
	for _, m := range mails { // nothing of the refused mail is left on the connection
		if diff := cmp.Diff([]string{"ann@example.org"}, m.To); diff != "" {
			t.Errorf("recipients (-want +got):\n%s", diff)
		}
	}
}

func TestIdleEnds(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := config(s.Addr)
	c.Idle = 20 * time.Millisecond
	sender := open(t, c)
	for range 2 {
		if err := sender.Send(t.Context(), hello()); err != nil {
			t.Fatal(err)
		}
		<-s.ended // the sender said QUIT
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func TestMaxIdle(t *testing.T) {
	t.Parallel()
	both := make(chan struct{})
	var mu sync.Mutex
	n := 0
	s := serve(t, func(s *server, _ *smtp.Server) {
		s.onMail = func(string) error { // answers when both are connected
			mu.Lock()
			if n++; n == 2 {
				close(both)
			}
			mu.Unlock()
			<-both
			return nil
		}
	})
	c := config(s.Addr)
	c.MaxIdle = 1
	sender := open(t, c)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := sender.Send(t.Context(), hello()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	<-s.ended // one of them, at once
	if err := sender.Send(t.Context(), hello()); err != nil {
		t.Fatal(err)
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want the third mail on a kept one", n)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sender := open(t, config(s.Addr))
	if err := sender.Send(t.Context(), hello()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sender.Close(), sender.Close()); err != nil {
		t.Fatal(err)
	}
	<-s.ended
	if err := sender.Send(t.Context(), hello()); !errors.Is(err, email.ErrClosed) || retry.IsPermanent(err) {
		t.Errorf("Send after Close: %v", err)
	}
}

func TestStale(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sender := open(t, config(s.Addr))
	for i := range 3 {
		if err := sender.Send(t.Context(), hello()); err != nil {
			t.Fatalf("mail %d after the server hung up: %v", i, err)
		}
		s.hangUp()
	}
	if n := len(s.taken()); n != 3 {
		t.Errorf("the server took %d mails, want 3", n)
	}
}

func TestServerSays421(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	s := serve(t, func(s *server, _ *smtp.Server) {
		s.onMail = func(string) error {
			if n.Add(1) == 2 {
				return reply(421, "restarting")
			}
			return nil
		}
	})
	sender := open(t, config(s.Addr))
	for range 2 {
		if err := sender.Send(t.Context(), hello()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// A mail that the server may have is never sent twice in one attempt.
func TestLostReply(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.onData = func(n int) error {
		if n == 2 {
			s.hangUp()
		}
		return nil
	}
	sender := open(t, config(s.Addr))
	if err := sender.Send(t.Context(), hello()); err != nil {
		t.Fatal(err)
	}
	err := sender.Send(t.Context(), hello())
	if err == nil || retry.IsPermanent(err) || !strings.Contains(err.Error(), "end message: connection lost") {
		t.Errorf("Send with a lost reply: %v", err)
	}
	if n := len(s.taken()); n != 2 {
		t.Errorf("the server has %d mails, want 2", n)
	}
}

func TestReplies(t *testing.T) {
	t.Parallel()
	const long = 3000
	for _, tt := range []struct {
		name      string
		mail      error
		rcpt      map[string]error
		data      error
		permanent bool
		want      string
	}{
		{name: "sender 5xx", mail: reply(550, "who?"), permanent: true, want: "sender noreply@example.com: 550 who?"},
		{name: "sender 4xx", mail: reply(451, "later"), want: "sender noreply@example.com: 451 later"},
		{name: "login needed", mail: reply(530, "log in first"), want: "530 log in first"},
		{name: "encryption needed", mail: reply(538, "no"), want: "538 no"},
		{name: "bad sequence", mail: reply(503, "no"), want: "503 no"},
		{name: "too many", mail: reply(452, "too many mails"), want: "452 too many mails"},
		{name: "all refused", rcpt: map[string]error{"a@x.test": reply(550, "no a"), "b@x.test": reply(551, "no b")}, permanent: true, want: "a@x.test: 550 no a; b@x.test: 551 no b"},
		{name: "one of two refused", rcpt: map[string]error{"b@x.test": reply(550, "no b")}, permanent: true, want: "sent to nobody: b@x.test: 550 no b"},
		{name: "one of two put off", rcpt: map[string]error{"a@x.test": reply(450, "grey")}, want: "sent to nobody: a@x.test: 450 grey"},
		{name: "one refused, then one put off", rcpt: map[string]error{"a@x.test": reply(550, "no"), "b@x.test": reply(450, "grey")}, permanent: true, want: "450 grey"},
		{name: "one put off, then one refused", rcpt: map[string]error{"a@x.test": reply(450, "grey"), "b@x.test": reply(550, "no")}, permanent: true, want: "450 grey"},
		{name: "message 5xx", data: reply(554, "spam"), permanent: true, want: "end message: 554 spam"},
		{name: "message 4xx", data: reply(452, "disk full"), want: "end message: 452 disk full"},
		{name: "long reply", data: reply(554, strings.Repeat("x", long)), permanent: true, want: "xx…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(s *server, srv *smtp.Server) {
				srv.MaxLineLength = 2 * long
				s.onMail = func(string) error { return tt.mail }
				s.onRcpt = func(to string) error { return tt.rcpt[to] }
				s.onData = func(int) error { return tt.data }
			})
			mail := hello()
			mail.To = email.Addresses{"a@x.test", "b@x.test"}
			err := open(t, config(s.Addr)).Send(t.Context(), mail)
			if err == nil || retry.IsPermanent(err) != tt.permanent || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Send = %v, permanent %v; want %q, permanent %v", err, retry.IsPermanent(err), tt.want, tt.permanent)
			}
			if _, ok := retry.AsAfter(err); ok {
				t.Error("the error asks for a later time")
			}
			if err != nil && len(err.Error()) > 500 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if n := len(s.taken()); tt.data == nil && n != 0 {
				t.Errorf("the server took %d mails, want none", n)
			}
		})
	}
}

func TestManyRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, func(s *server, _ *smtp.Server) {
		s.onRcpt = func(string) error { return reply(550, "no") }
	})
	mail := hello()
	mail.To = nil
	for i := range 50 {
		mail.To = append(mail.To, fmt.Sprintf("u%02d@example.org", i))
	}
	err := open(t, config(s.Addr)).Send(t.Context(), mail)
	if !retry.IsPermanent(err) || !strings.HasSuffix(err.Error(), "u04@example.org: 550 no; and more") {
		t.Errorf("Send = %v, want five addresses named", err)
	}
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sender := open(t, config(s.Addr))
	const senders, each = 16, 10
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for j := range each {
				mail := hello()
				mail.Subject = fmt.Sprintf("mail %d of %d", j, i)
				mail.To = email.Addresses{fmt.Sprintf("u%d@example.org", i)}
				if err := sender.Send(t.Context(), mail); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := map[string]int{}
	for _, m := range s.taken() {
		p := parse(t, m.Data)
		if fmt.Sprintf("<%s>", m.To[0]) != p.Header["To"] {
			t.Errorf("envelope %v, header %q", m.To, p.Header["To"])
		}
		got[p.Header["Subject"]]++
	}
	if len(got) != senders*each {
		t.Errorf("%d different mails, want %d", len(got), senders*each)
	}
	if n := s.conns.Load(); n > senders {
		t.Errorf("%d connections for %d senders", n, senders)
	}
}

func TestNonASCIIAddress(t *testing.T) {
	t.Parallel()
	mail := hello()
	mail.To = email.Addresses{"jörg@bücher.example"}
	old := serve(t)
	if err := open(t, config(old.Addr)).Send(t.Context(), mail); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "ASCII") {
		t.Errorf("Send through a server without SMTPUTF8 = %v", err)
	}
	s := serve(t, func(_ *server, srv *smtp.Server) { srv.EnableSMTPUTF8 = true })
	sender := open(t, config(s.Addr))
	if err := errors.Join(sender.Send(t.Context(), mail), sender.Send(t.Context(), hello())); err != nil {
		t.Fatal(err)
	}
	mails := s.taken()
	if len(mails) != 2 || mails[0].To[0] != "jörg@bücher.example" || !mails[0].UTF8 || mails[1].UTF8 {
		t.Errorf("the server took %v", mails)
	}
}
