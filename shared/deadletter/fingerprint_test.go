package deadletter_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
)

func letterOf(kind string, class task.Class, reason task.Reason, errs ...string) *deadletter.Letter {
	service, action, _ := strings.Cut(kind, ".")
	l := &deadletter.Letter{}
	l.Subject = task.Subject{Class: class, Service: service, Action: action}
	l.Reason = reason
	for i, e := range errs {
		l.Errors = append(l.Errors, task.Failure{Attempt: i + 1, Error: e})
	}
	return l
}

// What differs from task to task makes no other kind of death.
func TestFingerprintSame(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, a, b string }{
		{"numbers", "row 7 of 9 is bad", "row 1200 of 40000 is bad"},
		{"a decimal", "took 1.5 times as long", "took 12 times as long"},
		{"a list of numbers", "missing 1, 2, 3", "missing 4, 5"},
		{"durations", "not done within 1m30.5s", "not done within 250ms"},
		{"a number at a word", "no such user42", "no such user1234"},
		{"a number after a hyphen", "order-17 is closed", "order-4711 is closed"},
		{"hex", "object 0xc000123456 of ab12cd34ef", "object 0xc0009 of 9912cd34ef"},
		{"hex that begins with letters", "commit deadbeef12", "commit 12deadbeef"},
		{"uuids", "no account 0b7a9a52-3c1e-4a8e-9d70-0123456789ab", "no account ffffffff-aaaa-4a8e-9d70-abcdefabcdef"},
		{"an id in capitals", "body KQZTWUVYBNMASDFGHJKLQWERTY is gone", "body K7ZTWUVY2NMASDFGHJKLQWERTY is gone"},
		{"double quotes", `parse "abc": bad`, `parse "x \"y\" z": bad`},
		{"a quotation that was cut", `parse "abc`, `parse "xyz and so on`},
		{"single quotes", "no key 'abc' there", "no key 'a b c' there"},
		{"backticks", "run `a b`", "run `c`"},
		{"mail addresses", "mailbox ann@example.org is full", "mailbox b.c+d@mail.example.com is full"},
		{"IPv4", "dial tcp 10.0.0.1:443: connection refused", "dial tcp 192.168.1.17:8443: connection refused"},
		{"IPv6", "dial tcp [::1]:443: connection refused", "dial tcp [2001:db8::17]:80: connection refused"},
		{"IPv4 and a name", "dial tcp 10.0.0.1:443: refused", "dial tcp mx.example.com:25: refused"},
		{"names that are looked up", "lookup a.example.com: no such host", "lookup b-c.example.org: no such host"},
		{"URLs", "deliver webhook to https://a.example.com: gone", "deliver webhook to http://b.example.org:80/x?y=z: gone"},
		{"times", "expired 2026-01-02T03:04:05.678Z ago", "expired 2027-11-12 13:14:15+01:00 ago"},
		{
			"what an isolated task printed", "killed: it used up its processor time of 2s; the last of its output: page 7",
			"killed: it used up its processor time of 2s; the last of its output: no such page",
		},
		{"the stack of a panic", "panic: nil map\ngoroutine 7 [running]:\nmain.a()", "panic: nil map\ngoroutine 9 [running]:\nmain.b()"},
		{"spaces", "a  b\n\tc", "a b c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := deadletter.Fingerprint(letterOf("email.send", task.Default, task.Failed, tt.a))
			b := deadletter.Fingerprint(letterOf("email.send", task.Default, task.Failed, tt.b))
			if a != b {
				t.Errorf("Fingerprint of %q = %s, of %q = %s, want the same", tt.a, a, tt.b, b)
			}
		})
	}
}

// Another kind, class, reason or wording is another kind of death; what happened
// before the last attempt is not.
func TestFingerprintDiffers(t *testing.T) {
	t.Parallel()
	base := letterOf("email.send", task.Default, task.Failed, "first", "answered 503: try later")
	want := deadletter.Fingerprint(base)
	if len(want) != 12 || strings.Trim(want, "0123456789abcdef") != "" {
		t.Errorf("Fingerprint = %q, want 12 hexadecimal digits", want)
	}
	same := letterOf("email.send", task.Default, task.Failed, "something else", "again", "answered 503: try later")
	same.ID, same.Generation, same.Subject.Tenant = "other", 3, "acme"
	if got := deadletter.Fingerprint(same); got != want {
		t.Errorf("Fingerprint with another history, id and tenant = %s, want %s", got, want)
	}
	for name, l := range map[string]*deadletter.Letter{
		"kind":       letterOf("email.check", task.Default, task.Failed, "answered 503: try later"),
		"service":    letterOf("mail.send", task.Default, task.Failed, "answered 503: try later"),
		"class":      letterOf("email.send", task.Urgent, task.Failed, "answered 503: try later"),
		"reason":     letterOf("email.send", task.Default, task.Permanent, "answered 503: try later"),
		"wording":    letterOf("email.send", task.Default, task.Failed, "answered 503: try never"),
		"reply code": letterOf("email.send", task.Default, task.Failed, "answered 404: try later"),
		"no error":   letterOf("email.send", task.Default, task.Failed),
	} {
		if got := deadletter.Fingerprint(l); got == want {
			t.Errorf("%s: Fingerprint = %s, want another one", name, got)
		}
	}
}

// What is no id stays: these are different deaths.
func TestFingerprintKeepsWords(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, text := range []string{
		"", "connection refused", "connection reset by peer", "status 500", "status: 502", "HTTP/1.1 503", "code=429",
		"main.go:12: nil map", "other.go:12: nil map", "json: cannot unmarshal string into Go struct field Send.to",
		"json: cannot unmarshal string into Go struct field Send.subject", "it isn't there and can't be", "it isn't here and can't be",
	} {
		got := deadletter.Fingerprint(letterOf("a.b", task.Default, task.Failed, text))
		if other, ok := seen[got]; ok {
			t.Errorf("Fingerprint of %q and of %q = %s, want two", text, other, got)
		}
		seen[got] = text
	}
}

func FuzzFingerprint(f *testing.F) {
	f.Add("answered 503: \"x")
	f.Add("dial [::1]:80 'a' user12 https://x")
	f.Fuzz(func(t *testing.T, text string) {
		l := letterOf("a.b", task.Default, task.Failed, text)
		if a, b := deadletter.Fingerprint(l), deadletter.Fingerprint(l); a != b || len(a) != 12 {
			t.Errorf("Fingerprint(%q) = %q and %q, want 12 characters, the same", text, a, b)
		}
	})
}
