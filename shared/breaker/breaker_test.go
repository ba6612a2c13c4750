package breaker_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/breaker"
)

// Each file of testdata is the life of one breaker. A line is a step and, after
// "=>", what comes of it; lines that begin with # say why.
//
//	at 10s                    the time since the begin
//	call [NAME]               Admit; the ticket has a name for later
//	done NAME ok|fail|nothing|ask 30s
//	claim | adopt open 30s | adopt closed | adopt half-open 30s
//	tell | hear 3 failures 2 successes
//	tick | state
func TestBreaker(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files of steps, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(b), live(t, string(b))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

var policy = breaker.Policy{Failures: 3, Rate: 0.5, Window: 10 * time.Second, Open: time.Minute, Probes: 2, Spread: 20 * time.Second}

// live takes the steps of script and returns it with what came of them.
func live(t *testing.T, script string) string {
	t.Helper()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := begin
	br := breaker.New("a")
	tickets := map[string]breaker.Ticket{}
	var out strings.Builder
	for lines := bufio.NewScanner(strings.NewReader(script)); lines.Scan(); {
		line := lines.Text()
		step, _, _ := strings.Cut(line, " => ")
		if step == "" || step[0] == '#' {
			fmt.Fprintln(&out, line)
			continue
		}
		w := append(strings.Fields(step), "", "", "")
		came := ""
		switch w[0] {
		case "at":
			now = begin.Add(span(t, w[1]))
		case "call":
			v := br.Admit(policy, now)
			switch {
			case v.Admitted:
				came = "goes"
				tickets[w[1]] = v.Ticket
			default:
				came = fmt.Sprintf("waits %v and up to %v more, claim %v", v.From, v.Over, v.Claim)
			}
		case "done":
			r := breaker.Result{Why: "why"}
			switch w[2] {
			case "ok":
				r.Outcome = breaker.Success
			case "fail":
				r.Outcome = breaker.Failure
			case "ask":
				r.Outcome, r.After = breaker.Asked, span(t, w[3])
			}
			ticket, ok := tickets[w[1]]
			if !ok {
				t.Fatalf("no ticket %q", w[1])
			}
			came = "turned " + strconv.FormatBool(br.Done(policy, ticket, r, now))
		case "claim":
			came = "not claimable"
			if r := br.Record(); r.Claimable(now) {
				br.Claimed(policy, r.Claim("me", policy, now))
				came = "claimed"
			}
		case "adopt":
			r := breaker.Record{Destination: "a", State: breaker.State(w[1]), Owner: "other", At: now}
			if w[2] != "" {
				r.Until = now.Add(span(t, w[2]))
			}
			came = "news " + strconv.FormatBool(br.Adopt(r))
		case "tell":
			came = "nothing"
			if tally, ok := br.Tell(policy); ok {
				came = fmt.Sprintf("%d failures, %d successes", tally.Failures, tally.Successes)
			}
		case "hear":
			tally := breaker.Tally{Failures: number(t, w[1]), Successes: number(t, w[3]), Why: "theirs"}
			came = "turned " + strconv.FormatBool(br.Hear(policy, tally, now))
		case "tick":
			came = "turned " + strconv.FormatBool(br.Tick(policy, now))
		case "state":
			r := br.Record()
			came = string(br.State())
			if !r.Until.IsZero() {
				came += fmt.Sprintf(" until %v", r.Until.Sub(begin))
			}
			if r.Reason != "" {
				came += ": " + r.Reason
			}
			if br.Idle(policy, now) {
				came += ", idle"
			}
		default:
			t.Fatalf("no step %q", line)
		}
		if came != "" {
			step += " => " + came
		}
		fmt.Fprintln(&out, step)
	}
	return out.String()
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func span(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSupersedes(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	for _, tt := range []struct {
		name      string
		mine, has breaker.Record
		want      bool
	}{
		{"a later close", breaker.Record{State: breaker.Closed, At: at(2)}, breaker.Record{State: breaker.Open, At: at(1)}, true},
		{"an earlier close", breaker.Record{State: breaker.Closed, At: at(1)}, breaker.Record{State: breaker.Open, At: at(2)}, false},
		{"open for longer", breaker.Record{State: breaker.Open, At: at(1), Until: at(20)}, breaker.Record{State: breaker.Open, At: at(2), Until: at(10)}, true},
		{"open for less", breaker.Record{State: breaker.Open, At: at(2), Until: at(10)}, breaker.Record{State: breaker.Open, At: at(1), Until: at(20)}, false},
		{"open after a half-open one", breaker.Record{State: breaker.Open, At: at(2)}, breaker.Record{State: breaker.HalfOpen, At: at(1)}, true},
	} {
		if got := tt.mine.Supersedes(tt.has); got != tt.want {
			t.Errorf("%s: Supersedes() = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	want := breaker.Policy{Failures: 10, Rate: 0.5, Window: time.Minute, Open: 5 * time.Minute, Probes: 3, Spread: time.Minute}
	if diff := cmp.Diff(want, breaker.Policy{}.WithDefaults()); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	for _, bad := range []breaker.Policy{{Failures: -1}, {Probes: -1}, {Rate: 1.1}, {Rate: -0.1}, {Window: -1}, {Spread: -1}, {Open: -1}, {Open: 25 * time.Hour}} {
		if bad.Validate() == nil {
			t.Errorf("Validate(%+v) = nil, want an error", bad)
		}
	}
	if err := (breaker.Policy{}).Validate(); err != nil {
		t.Errorf("Validate() of the zero policy = %v", err)
	}
}

// What follows a record goes over it, also within one tick of the clock, and by a
// clock that is behind: else a process would take its own past for news.
func TestLaterHolds(t *testing.T) {
	t.Parallel()
	p := breaker.Policy{Failures: 1, Open: time.Minute, Probes: 1}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := breaker.New("a")
	b.Done(p, b.Admit(p, now).Ticket, breaker.Result{Outcome: breaker.Failure}, now)
	open := b.Record()
	now = open.Until
	for _, behind := range []time.Duration{0, time.Hour} {
		half := open.Claim("me", p, now.Add(-behind))
		if !half.Supersedes(open) {
			t.Errorf("%v behind: %+v does not go over %+v", behind, half, open)
		}
		b.Claimed(p, half)
		b.Done(p, b.Admit(p, now).Ticket, breaker.Result{Outcome: breaker.Success}, now.Add(-behind))
		if closed := b.Record(); closed.State != breaker.Closed || !closed.Supersedes(half) {
			t.Errorf("%v behind: %+v does not go over %+v", behind, closed, half)
		}
	}
}
