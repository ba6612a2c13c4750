package ratelimit

import "time"

// Schedule is what a fleet shares of one limit. The zero value is one that nobody
// has used yet. Times are of one clock, which all who use it have to read.
type Schedule struct {
	Next time.Time     `json:"next"`             // the first slot that nobody has taken
	Kept time.Time     `json:"kept,omitzero"`    // the first slot that is for those in line
	From time.Time     `json:"from,omitzero"`    // when the first one in line comes back, or came
	Line time.Time     `json:"line,omitzero"`    // when the last one does
	Step time.Duration `json:"step_ns,omitzero"` // between those in line
}

// Slots are times that somebody has taken.
type Slots struct {
	First time.Time
	Step  time.Duration
	N     int
}

// Pop takes the first one away. N must not be 0.
func (s *Slots) Pop() time.Time {
	at := s.First
	s.First = at.Add(s.Step)
	s.N--
	return at
}

const (
	soonest = 250 * time.Millisecond // to come back: sooner is between a task and its timer
	surplus = 10                     // of those in line, one in so many comes too early
)

// Reserve takes up to n slots whose time is at most ahead from now, which may be
// negative, and that can be used for keep from now at least. Fewer, or none, are
// left when others were first.
func (s *Schedule) Reserve(p Policy, now time.Time, n int, ahead, keep time.Duration) Slots {
	out := Slots{First: now.Add(keep - p.Slack()), Step: p.Spacing()}
	if s.Next.After(out.First) {
		out.First = s.Next
	}
	if room := now.Add(ahead).Sub(out.First); n > 0 && room >= 0 {
		out.N = min(n, int(room/out.Step)+1)
		s.Next = out.First.Add(time.Duration(out.N) * out.Step)
	}
	return out
}

// Busy reports whether there is somebody in line.
func (s *Schedule) Busy(now time.Time) bool { return s.Line.After(now) }

// Free is how far ahead of now slots are for whoever comes, at most most: later ones
// are kept for those in line. It is negative when only those are left that they did
// not use within half of the slack.
func (s *Schedule) Free(p Policy, now time.Time, most time.Duration) time.Duration {
	if !s.Busy(now) {
		return most
	}
	return min(most, max(s.Kept.Sub(now)-1, -p.Slack()/2))
}

// Waiting is about how many are in line.
func (s *Schedule) Waiting(now time.Time) int {
	if !s.Busy(now) || s.Step <= 0 {
		return 0
	}
	if s.From.After(now) {
		now = s.From
	}
	return int((s.Line.Sub(now) + s.Step - 1) / s.Step)
}

// Queue puts n tasks in line and returns when each is to come back: at least delay
// from now, and after those that are in line already.
func (s *Schedule) Queue(p Policy, now time.Time, n int, delay time.Duration) Slots {
	step := p.Spacing() * surplus / (surplus + 1)
	if s.Busy(now) && s.Step > 0 && s.Step != step { // the policy is another one than when they came
		s.Line = now.Add(time.Duration(float64(s.Line.Sub(now)) / float64(s.Step) * float64(step)))
		s.From, s.Kept = now, now
	}
	s.Step = step
	out := Slots{First: now.Add(max(delay, soonest)), Step: step, N: n}
	for _, t := range []time.Time{s.Next, s.Line} {
		if t.After(out.First) {
			out.First = t
		}
	}
	if out.First.After(s.Line) { // a new line, or one with a gap before these
		s.From, s.Kept = out.First, out.First.Add(-p.Slack()) // what can still be used then
		if s.Next.After(s.Kept) {
			s.Kept = s.Next
		}
	}
	s.Line = out.First.Add(time.Duration(n) * step)
	return out
}

// Merge takes what another copy of the schedule has given away.
func (s *Schedule) Merge(o Schedule) {
	if o.Next.After(s.Next) {
		s.Next = o.Next
	}
	if o.Line.After(s.Line) {
		s.Kept, s.From, s.Line, s.Step = o.Kept, o.From, o.Line, o.Step
	}
}
