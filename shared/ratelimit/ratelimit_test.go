package ratelimit_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/ratelimit"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return begin.Add(d) }

func TestPolicy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		p              ratelimit.Policy
		slack, spacing time.Duration
		steady         int // slots in each Per
	}{
		{"a minute", ratelimit.Policy{Limit: 100, Per: time.Minute}, 1200 * time.Millisecond, 612 * time.Millisecond, 98},
		{"a second", ratelimit.Policy{Limit: 100, Per: time.Second}, 50 * time.Millisecond, 10500 * time.Microsecond, 95},
		{"one", ratelimit.Policy{Limit: 1, Per: time.Second}, 50 * time.Millisecond, 1050 * time.Millisecond, 0},
		{"a burst", ratelimit.Policy{Limit: 100, Per: time.Minute, Burst: 20}, 15 * time.Second, 750 * time.Millisecond, 80},
		{"a burst that the slack holds", ratelimit.Policy{Limit: 100, Per: time.Minute, Burst: 1}, 1200 * time.Millisecond, 612 * time.Millisecond, 98},
		{"not a whole number", ratelimit.Policy{Limit: 7, Per: time.Second}, 50 * time.Millisecond, 150 * time.Millisecond, 6},
		{"many", ratelimit.Policy{Limit: 1_000_000, Per: time.Second}, 50 * time.Millisecond, 1050, 952380},
	} {
		if err := tt.p.Validate(); err != nil {
			t.Errorf("%s: Validate() = %v", tt.name, err)
		}
		if slack, spacing := tt.p.Slack(), tt.p.Spacing(); slack != tt.slack || spacing != tt.spacing {
			t.Errorf("%s: slack %v and spacing %v, want %v and %v", tt.name, slack, spacing, tt.slack, tt.spacing)
		}
		if got := int(tt.p.Per / tt.p.Spacing()); got != tt.steady {
			t.Errorf("%s: %d slots in each Per, want %d", tt.name, got, tt.steady)
		}
	}
	for _, bad := range []ratelimit.Policy{
		{},
		{Limit: 1},
		{Per: time.Second},
		{Limit: -1, Per: time.Second},
		{Limit: 1, Per: time.Millisecond},
		{Limit: 1, Per: 32 * 24 * time.Hour},
		{Limit: 1_000_001, Per: time.Second},
		{Limit: 10, Per: time.Second, Burst: 6},
		{Limit: 10, Per: time.Second, Burst: -1},
	} {
		if bad.Validate() == nil {
			t.Errorf("Validate(%+v) = nil, want an error", bad)
		}
	}
}

// slots are the times of s after the begin.
func slots(s ratelimit.Slots) []time.Duration {
	var out []time.Duration
	for s.N > 0 {
		out = append(out, s.Pop().Sub(begin))
	}
	return out
}

const (
	ms  = time.Millisecond
	sec = time.Second
)

func TestReserve(t *testing.T) {
	t.Parallel()
	p := ratelimit.Policy{Limit: 102, Per: 100 * sec} // slots are 1 s apart, and good for 2 s
	for _, tt := range []struct {
		name        string
		next        time.Time
		n           int
		ahead, keep time.Duration
		want        []time.Duration
	}{
		{"first of all", time.Time{}, 1, 0, 100 * ms, []time.Duration{-1900 * ms}},
		{"all that can be used", time.Time{}, 10, 0, 100 * ms, []time.Duration{-1900 * ms, -900 * ms}},
		{"no time to use old ones", time.Time{}, 10, 0, 2 * sec, []time.Duration{0}},
		{"some ahead", time.Time{}, 10, 1200 * ms, 100 * ms, []time.Duration{-1900 * ms, -900 * ms, 100 * ms, 1100 * ms}},
		{"after others", at(-500 * ms), 10, 600 * ms, 100 * ms, []time.Duration{-500 * ms, 500 * ms}},
		{"others have all", at(500 * ms), 10, 400 * ms, 100 * ms, nil},
		{"only late ones", at(-1500 * ms), 10, -sec, 100 * ms, []time.Duration{-1500 * ms}},
		{"late ones are gone", at(-1500 * ms), 10, -sec, 1100 * ms, nil},
		{"none wanted", time.Time{}, 0, 0, 100 * ms, nil},
	} {
		s := ratelimit.Schedule{Next: tt.next}
		got := slots(s.Reserve(p, begin, tt.n, tt.ahead, tt.keep))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		want := tt.next
		if len(got) > 0 {
			want = at(got[len(got)-1] + sec)
		}
		if !s.Next.Equal(want) {
			t.Errorf("%s: next %v, want %v", tt.name, s.Next, want)
		}
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	p := ratelimit.Policy{Limit: 1020, Per: 1100 * sec} // slots are 1.1 s apart
	s := ratelimit.Schedule{}
	for _, tt := range []struct {
		name    string
		now     time.Duration
		next    time.Time
		p       ratelimit.Policy
		n       int
		delay   time.Duration
		want    []time.Duration
		waiting int
	}{
		{"the first ones", 0, begin, p, 3, 0, []time.Duration{250 * ms, 1250 * ms, 2250 * ms}, 3},
		{"behind them", 0, begin, p, 1, 0, []time.Duration{3250 * ms}, 4},
		{"later than they", 0, begin, p, 1, 10 * sec, []time.Duration{10 * sec}, 1},
		{"when all have come", 20 * sec, begin, p, 1, 0, []time.Duration{20250 * ms}, 1},
		{"behind taken slots", 30 * sec, at(32 * sec), p, 1, 0, []time.Duration{32 * sec}, 1},
		{"with twice the rate", 30 * sec, begin, ratelimit.Policy{Limit: 2040, Per: 1100 * sec}, 1, 0, []time.Duration{31500 * ms}, 4},
	} {
		s.Next = tt.next
		got := slots(s.Queue(tt.p, at(tt.now), tt.n, tt.delay))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if n := s.Waiting(at(tt.now)); n != tt.waiting || !s.Busy(at(tt.now)) {
			t.Errorf("%s: %d wait, busy %v; want %d", tt.name, n, s.Busy(at(tt.now)), tt.waiting)
		}
	}
	if s.Busy(at(time.Hour)) || s.Waiting(at(time.Hour)) != 0 {
		t.Error("somebody waits an hour later")
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	early, late := ratelimit.Schedule{Next: at(1), Line: at(1), Step: 1}, ratelimit.Schedule{Next: at(2), Line: at(2), Step: 2}
	for _, s := range []ratelimit.Schedule{{}, early, late} {
		s.Merge(early)
		s.Merge(late)
		s.Merge(early)
		if diff := cmp.Diff(late, s); diff != "" {
			t.Errorf("Merge() (-want +got):\n%s", diff)
		}
	}
}

// Whatever processes reserve, and however late within the slack they use it: no
// window holds more than the limit. The worst of them is met.
func TestNoWindowAboveLimit(t *testing.T) {
	t.Parallel()
	for _, p := range []ratelimit.Policy{
		{Limit: 1, Per: sec},
		{Limit: 7, Per: sec},
		{Limit: 100, Per: time.Minute},
		{Limit: 100, Per: time.Minute, Burst: 50},
		{Limit: 1000, Per: 3 * sec, Burst: 333},
	} {
		t.Run(fmt.Sprintf("%+v", p), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(uint64(p.Limit), 1))
			var s ratelimit.Schedule
			var starts []time.Time
			late := func(slot time.Time) time.Duration { // as late as can be, and then as early
				switch since := slot.Sub(at(10 * p.Per)); {
				case since < -2*p.Per || since > 2*p.Per:
					return time.Duration(rnd.Int64N(int64(p.Slack())))
				case since < 0:
					return p.Slack()
				}
				return 0
			}
			for now := begin; now.Before(at(20 * p.Per)); now = now.Add(time.Duration(rnd.Int64N(int64(p.Slack() / 8)))) {
				r := s.Reserve(p, now, 1+rnd.IntN(p.Limit), p.Per/20, 0)
				for r.N > 0 {
					slot := r.Pop()
					starts = append(starts, slot.Add(late(slot)))
				}
			}
			slices.SortFunc(starts, time.Time.Compare)
			most := 0
			for i, j := 0, 0; i < len(starts); i++ {
				for ; j < len(starts) && starts[j].Sub(starts[i]) < p.Per; j++ {
				}
				most = max(most, j-i)
			}
			if most > p.Limit || most < p.Limit-1 {
				t.Errorf("a window holds %d starts, want at most %d, and nearly that", most, p.Limit)
			}
		})
	}
}
