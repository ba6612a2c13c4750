package doctor

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams/backlog"
)

// sick are failures: "30 webhook.deliver api.example.com: answered 503".
func sick(t *testing.T, lines ...string) *snapshot {
	t.Helper()
	s := crafted()
	for _, l := range lines {
		var n int
		var kind string
		if _, err := fmt.Sscan(l, &n, &kind); err != nil {
			t.Fatal(err)
		}
		service, action, _ := strings.Cut(kind, ".")
		_, text, _ := strings.Cut(l, kind+" ")
		for range n {
			x := backlog.Task{State: task.State{
				Subject: task.Subject{Class: task.Slow, Service: service, Action: action}, ID: strconv.Itoa(len(s.timers.tasks)), Attempt: 1, Reason: task.Retried,
				Errors: []task.Failure{{Attempt: 1, At: at.Add(-time.Minute), Error: text}},
			}, Place: backlog.Timer, DueAt: at.Add(time.Minute), Stored: stored.Message{Stream: task.RetryStream, Sequence: uint64(len(s.timers.tasks) + 1)}}
			s.timers.tasks = append(s.timers.tasks, x)
		}
	}
	s.timers.total = uint64(len(s.timers.tasks))
	return s
}

// Failures are put down to a destination, to the network, or to the kind.
func TestBlame(t *testing.T) {
	t.Parallel()
	const refused = "connection refused"
	for _, tt := range []struct {
		name string
		sick []string
		want string // findings and their objects, in order
	}{
		{"none", nil, ""},
		{"too few to say", []string{"4 pdf.make deliver to https://a.example.com: answered 503"}, ""},
		{"one destination", []string{"9 pdf.make deliver to https://a.example.com: answered 503", "1 pdf.make nil map"}, "destination a.example.com"},
		{"one of many that a kind calls", []string{"9 pdf.make https://a.example.com: answered 503", "30 pdf.make nil map"}, "tasks-fail pdf.make"},
		{"two kinds, one destination", []string{"3 pdf.make https://a.example.com: answered 503", "3 pdf.send https://a.example.com: answered 502"}, "destination a.example.com"},
		{"two destinations", []string{"9 pdf.make https://a.example.com: answered 503", "12 pdf.send https://b.example.com: answered 429"}, "destination b.example.com, destination a.example.com"},
		{"the network", []string{"3 pdf.make https://a.example.com: " + refused, "3 pdf.make https://b.example.com: no such host", "3 pdf.send https://c.example.com: i/o timeout"}, "network network"},
		{"two that are down", []string{"6 pdf.make https://a.example.com: " + refused, "5 pdf.send https://b.example.com: " + refused}, "destination a.example.com, destination b.example.com"},
		{"one of three that are down", []string{"30 pdf.make https://a.example.com: " + refused, "1 pdf.make https://b.example.com: " + refused, "1 pdf.make https://c.example.com: " + refused}, "destination a.example.com"},
		{"no destination", []string{"9 pdf.make nil map"}, "tasks-fail pdf.make"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := sick(t, tt.sick...)
			var r Report
			for _, look := range []func(*snapshot) ([]Finding, Check){lookTasks, lookDestinations} {
				findings, _ := look(s)
				r.Findings = append(r.Findings, findings...)
			}
			r.sort()
			var got []string
			for _, f := range r.Findings {
				got = append(got, f.Name+" "+f.Object)
			}
			if text := strings.Join(got, ", "); text != tt.want {
				t.Errorf("findings = %q, want %q", text, tt.want)
			}
			complete(t, r.Findings)
		})
	}
}
