package task_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/shared/task"
)

func TestParseSubject(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for _, tt := range []struct {
		subject string
		want    task.Subject
		ok      bool
	}{
		{"tasks.urgent.email.send", task.Subject{Class: "urgent", Service: "email", Action: "send"}, true},
		{"tasks.bulk.sync.page.acme", task.Subject{Class: "bulk", Service: "sync", Action: "page", Tenant: "acme"}, true},
		{"tasks.bulk.sync.page." + long, task.Subject{Class: "bulk", Service: "sync", Action: "page", Tenant: long}, true},
		{"tasks.bulk.sync.page.a.b", task.Subject{Class: "bulk", Service: "sync", Action: "page.a.b"}, false},
		{"tasks.bulk.sync.pa$ge", task.Subject{Class: "bulk", Service: "sync", Action: "pa$ge"}, false},
		{"tasks.bulk.sync.>", task.Subject{Class: "bulk", Service: "sync", Action: ">"}, false},
		{"tasks.bulk.sync.page.", task.Subject{Class: "bulk", Service: "sync", Action: "page."}, false},
		{"tasks.bulk.sync.page." + long + "a", task.Subject{Class: "bulk", Service: "sync", Action: "page." + long + "a"}, false},
		{"tasks.bulk.sync", task.Subject{Class: "bulk", Service: "sync"}, false},
		{"retry.ready.bulk.sync.page.1", task.Subject{}, false},
		{"", task.Subject{}, false},
	} {
		got, err := task.ParseSubject(tt.subject)
		if got != tt.want || (err == nil) != tt.ok || err != nil && !errors.Is(err, task.ErrBadSubject) {
			t.Errorf("ParseSubject(%q) = %+v, %v, want %+v, ok %v", tt.subject, got, err, tt.want, tt.ok)
		}
		if tt.ok && got.String() != tt.subject {
			t.Errorf("ParseSubject(%q).String() = %q", tt.subject, got)
		}
	}
}

func TestSplitKind(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind            string
		service, action string
		ok              bool
	}{
		{"email.send", "email", "send", true},
		{"email", "", "", false},
		{"email.", "", "", false},
		{".send", "", "", false},
		{"email.send.now", "", "", false},
		{"e mail.send", "", "", false},
	} {
		service, action, err := task.SplitKind(tt.kind)
		if service != tt.service || action != tt.action || (err == nil) != tt.ok {
			t.Errorf("SplitKind(%q) = %q, %q, %v, want %q, %q, ok %v", tt.kind, service, action, err, tt.service, tt.action, tt.ok)
		}
	}
}

// Whatever the id, the subjects made of it are legal, and those of two ids differ.
func FuzzSubjects(f *testing.F) {
	for _, id := range []string{"", "a", "a.b", "*", ">", "ä", "a b", strings.Repeat("x", 65), "h-0000"} {
		f.Add(id, "send")
	}
	f.Fuzz(func(t *testing.T, id, action string) {
		s := task.Subject{Class: task.Default, Service: "email", Action: action}
		for _, subject := range []string{s.RetryWait(id), s.RetryReady(id), s.Dead(id)} {
			for token := range strings.SplitSeq(subject, ".") {
				if err := task.CheckToken(token); err != nil {
					t.Fatalf("id %q makes subject %q: %v", id, subject, err)
				}
			}
		}
		if other := s.Dead(id + "x"); other == s.Dead(id) {
			t.Fatalf("ids %q and %q share %q", id, id+"x", other)
		}
	})
}
