package email_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/droverhq/drover/services/email"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
)

func TestRefused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sender := open(t, config(s.Addr))
	set := func(f func(*email.Send)) email.Send {
		m := hello()
		f(&m)
		return m
	}
	to := func(a ...string) email.Send { return set(func(m *email.Send) { m.To = a }) }
	for _, tt := range []struct {
		name string
		args email.Send
		want string
	}{
		{"no recipients", to(), "0 recipients"},
		{"101 recipients", to(slices.Repeat([]string{"a@b.c"}, 101)...), "101 recipients"},
		{"no body", set(func(m *email.Send) { m.Text = "" }), "no text and no html"},
		{"text is not UTF-8", set(func(m *email.Send) { m.Text = "\xff" }), "UTF-8"},
		{"html is not UTF-8", set(func(m *email.Send) { m.HTML = "\xff" }), "UTF-8"},
		{"subject with CRLF", set(func(m *email.Send) { m.Subject = "hi\r\nBcc: eve@evil.test" }), "subject: it has a control character ('\\r') at byte 2"},
		{"subject with LF", set(func(m *email.Send) { m.Subject = "hi\nBcc: eve@evil.test" }), "control character"},
		{"subject with CR", set(func(m *email.Send) { m.Subject = "hi\rBcc: eve@evil.test" }), "control character"},
		{"subject with NUL", set(func(m *email.Send) { m.Subject = "hi\x00" }), "control character"},
		{"subject with folded line", set(func(m *email.Send) { m.Subject = "hi\r\n there" }), "control character"},
		{"subject with NEL", set(func(m *email.Send) { m.Subject = "hi\u0085Bcc: eve@evil.test" }), "control character"},
		{"subject is not UTF-8", set(func(m *email.Send) { m.Subject = "hi\xff" }), "not UTF-8"},
		{"long subject", set(func(m *email.Send) { m.Subject = strings.Repeat("x", 901) }), "901 bytes"},
		{"to with CRLF", to("ann@example.org\r\nBcc: eve@evil.test"), "control character"},
		{"to with LF at the end", to("ann@example.org\n"), "control character"},
		{"to with NUL", to("ann@example.org\x00"), "control character"},
		{"to with a command", to("ann@example.org>\r\nRCPT TO:<eve@evil.test"), "control character"},
		{"to with a second address", to("ann@example.org, eve@evil.test"), "address"},
		{"to with a parameter", to(`"ann@example.org> NOTIFY=NEVER"@example.org`), "needs quotes"},
		{"to with brackets in quotes", to(`"ann> ORCPT=rfc822;eve@evil.test <x"@example.org`), "needs quotes"},
		{"to with quoted dots", to(`"..ann"@example.org`), "needs quotes"},
		{"to with an address literal", to("ann@[127.0.0.1]"), "not a domain name"},
		{"to without a domain", to("ann"), "address"},
		{"to with an empty label", to("ann@example..org"), "address"},
		{"to with a long local part", to(strings.Repeat("a", 65) + "@example.org"), "longer than 64"},
		{"to with an underscore in the domain", to("ann@exam_ple.org"), "not a domain name"},
		{"to with a route", to("<@relay.test:ann@example.org>"), "address"},
		{"empty to", to(""), "address"},
		{"name with CRLF", to("Ann\r\nBcc: eve@evil.test <ann@example.org>"), "control character"},
		{"name with CRLF in quotes", to("\"Ann\r\nBcc: eve@evil.test\" <ann@example.org>"), "control character"},
		{"name with encoded CRLF", to("=?utf-8?q?Ann=0D=0ABcc=3A_eve=40evil.test?= <ann@example.org>"), "control character"},
		{"name with encoded CRLF, base64", to("=?utf-8?b?QW5uDQpCY2M6IGV2ZUBldmlsLnRlc3Q=?= <ann@example.org>"), "control character"},
		{"cc with LF", set(func(m *email.Send) { m.Cc = email.Addresses{"a@b.c\nBcc: eve@evil.test"} }), "cc: address"},
		{"bcc with LF", set(func(m *email.Send) { m.Bcc = email.Addresses{"a@b.c\nDATA"} }), "bcc: address"},
		{"reply_to with LF", set(func(m *email.Send) { m.ReplyTo = "a@b.c\nBcc: eve@evil.test" }), "reply_to: address"},
		{"reply_to with two", set(func(m *email.Send) { m.ReplyTo = "a@b.c, d@e.f" }), "reply_to: address"},
		{"from with LF", set(func(m *email.Send) { m.From = "a@example.com\nBcc: eve@evil.test" }), "from: address"},
		{"from another domain", set(func(m *email.Send) { m.From = "ceo@example.org" }), "ceo@example.org is not in the domain example.com"},
		{"from a subdomain", set(func(m *email.Send) { m.From = "a@mail.example.com" }), "not in the domain"},
		{"from a longer domain", set(func(m *email.Send) { m.From = "a@badexample.com" }), "not in the domain"},
		{"from with the domain in its name", set(func(m *email.Send) { m.From = `"x@example.com" <a@evil.test>` }), "not in the domain"},
		{"from with the domain in its local part", set(func(m *email.Send) { m.From = `"a@example.com"@evil.test` }), "from: address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := sender.Send(t.Context(), tt.args)
			if !retry.IsPermanent(err) || !strings.HasPrefix(err.Error(), "compose mail: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Send = %v, want a permanent error with %q", err, tt.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\r\n\x00") {
				t.Errorf("the error has control characters: %q", err)
			}
		})
	}
	t.Cleanup(func() {
		if n := s.conns.Load(); n != 0 {
			t.Errorf("%d connections were made, want none", n)
		}
	})
}

// What is strange but allowed must not change the mail's other headers, its
// recipients, or how many mails arrive.
func TestHostileButLegal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		subject string
		to      string
		text    string
		html    string
	}{
		{name: "header in the subject", subject: "Bcc: eve@evil.test"},
		{name: "encoded line break in the subject", subject: "=?utf-8?q?hi=0D=0ABcc:_eve@evil.test?="},
		{name: "percent-encoded line break", subject: "hi%0d%0aBcc: eve@evil.test"},
		{name: "unicode line separators", subject: "hi\u2028Bcc: eve@evil.test\u2029"},
		{name: "only spaces", subject: strings.Repeat(" ", 300)},
		{name: "spaces that could fold into an empty line", subject: "a" + strings.Repeat(" ", 74) + strings.Repeat("b", 80) + "  " + strings.Repeat("c", 80) + " "},
		{name: "no place to fold", subject: strings.Repeat("x", 900)},
		{name: "no place to fold, not ASCII", subject: strings.Repeat("ü", 450)},
		{name: "text ends the message", text: "hi\r\n.\r\nMAIL FROM:<eve@evil.test>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\nboo\r\n.\r\n"},
		{name: "text ends the message with LF", text: "hi\n.\nMAIL FROM:<eve@evil.test>\nRCPT TO:<ann@example.org>\nDATA\nboo\n.\n"},
		{name: "text ends the message with CR", text: "hi\r.\rMAIL FROM:<eve@evil.test>\rRCPT TO:<ann@example.org>\rDATA\rboo\r.\r"},
		{name: "text ends the message, mixed", text: "hi\n.\r\nMAIL FROM:<eve@evil.test>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\nboo\r.\r\n"},
		{name: "text with NUL", text: "hi\x00there"},
		{name: "text of dots", text: strings.Repeat(".\n", 50)},
		{name: "long line", text: strings.Repeat("x", 100_000)},
		{name: "part boundary in the html", text: "hi", html: "\r\n--boundary--\r\nContent-Type: text/html\r\n\r\n<p>boo</p>"},
		{name: "header in the name", to: `"Bcc: eve@evil.test" <ann@example.org>`},
		{name: "address in the name", to: `"eve@evil.test>, <bob@evil.test" <ann@example.org>`},
		{name: "wide name", to: `"A` + strings.Repeat(" ", 200) + strings.Repeat("n", 200) + `  " <ann@example.org>`},
		{name: "comment", to: "ann@example.org (eve@evil.test)"},
		{name: "odd local part", to: "!#$%&'*+-/=?^_`{|}~.ann@example.org"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			mail := hello()
			mail.Subject, mail.HTML = tt.subject, tt.html
			if tt.text != "" {
				mail.Text = tt.text
			}
			if tt.to != "" {
				mail.To = email.Addresses{tt.to}
			}
			if err := open(t, config(s.Addr)).Send(inTask(t, task.Info{ID: "1"}), mail); err != nil {
				t.Fatal(err)
			}
			mails := s.taken()
			if len(mails) != 1 || len(mails[0].To) != 1 || !strings.HasSuffix(mails[0].To[0], "ann@example.org") || mails[0].From != "noreply@example.com" {
				t.Fatalf("the server took %+v", mails)
			}
			for line := range strings.SplitSeq(string(mails[0].Data), "\r\n") {
				if len(line) > 998 || strings.ContainsAny(line, "\r\n\x00") {
					t.Errorf("line %.100q of %d bytes", line, len(line))
				}
			}
			header, _, _ := strings.Cut(string(mails[0].Data), "\r\n\r\n")
			for line := range strings.SplitSeq(header, "\r\n") {
				if strings.TrimSpace(line) == "" { // some take it for the end of the header
					t.Errorf("a line of the header is blank:\n%s", header)
				}
			}
			got := parse(t, mails[0].Data)
			want := []string{"Auto-Submitted", "Content-Type", "Date", "From", "Message-Id", "Mime-Version", "Subject", "To"}
			if tt.html == "" {
				want = slices.Insert(want, 1, "Content-Transfer-Encoding")
			}
			if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got.Header))); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			if want := strings.Join(strings.Fields(tt.subject), " "); !strings.HasPrefix(want, "=?") && got.Header["Subject"] != want {
				t.Errorf("subject %q, want %q", got.Header["Subject"], want)
			}
			if got, want := lines(got.Text), lines(mail.Text); got != want {
				t.Errorf("text %.200q, want %.200q", got, want)
			}
			if got, want := lines(got.HTML), lines(mail.HTML); got != want {
				t.Errorf("html %.200q, want %.200q", got, want)
			}
		})
	}
}

// lines makes every line end LF, and drops the last.
func lines(s string) string {
	return strings.TrimSuffix(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s), "\n")
}

func TestArgs(t *testing.T) {
	t.Parallel()
	if k, c := (email.Send{}).Kind(), task.ClassOf(email.Send{}); k != "email.send" || c != task.Default {
		t.Errorf("kind %s, class %s", k, c)
	}
	full := email.Send{
		To: email.Addresses{"a@b.c", "d@e.f"}, Cc: email.Addresses{"c@c.c"}, Bcc: email.Addresses{"x@y.z"},
		From: "f@f.f", ReplyTo: "r@r.r", Subject: "s", Text: "t", HTML: "h",
	}
	for _, tt := range []struct {
		name string
		in   any
		want email.Send
	}{
		{"all fields", full, full},
		{"one string", map[string]any{"to": "a@b.c", "cc": "d@e.f"}, email.Send{To: email.Addresses{"a@b.c"}, Cc: email.Addresses{"d@e.f"}}},
		{"a list", map[string]any{"to": []string{"a@b.c"}}, email.Send{To: email.Addresses{"a@b.c"}}},
		{"an empty list", map[string]any{"to": []string{}}, email.Send{To: email.Addresses{}}},
		{"nil", map[string]any{"to": nil}, email.Send{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := task.Marshal(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			var got email.Send
			if err := task.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, bad := range []any{7, []any{"a@b.c", 7}, map[string]any{"a": "b"}, true} {
		b, err := task.Marshal(map[string]any{"to": bad})
		if err != nil {
			t.Fatal(err)
		}
		if err := task.Unmarshal(b, new(email.Send)); !errors.Is(err, task.ErrBadBody) {
			t.Errorf("to = %v was decoded", bad)
		}
	}
}

func FuzzAddresses(f *testing.F) {
	for _, v := range []any{"a@b.c", []string{"a", "b"}, nil, 7, []any{[]any{}}} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, to []byte) {
		var got, again email.Send
		if task.Unmarshal(append([]byte("\x81\xa2to"), to...), &got) != nil {
			return
		}
		b, err := task.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if err := task.Unmarshal(b, &again); err != nil || !slices.Equal(again.To, got.To) {
			t.Errorf("%q became %q: %v", got.To, again.To, err)
		}
	})
}
