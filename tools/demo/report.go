package demo

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// Report is what became of the demo's tasks.
type Report struct {
	OK       bool              `json:"ok"` // every task is accounted for, and there is no problem
	Seconds  float64           `json:"seconds"`
	Total    Tally             `json:"total"`
	Tasks    []Tally           `json:"tasks"`      // by part
	Moves    map[string]int    `json:"moves"`      // to RETRY, by reason
	Waits    []Wait            `json:"waits"`      // by class
	Dead     []Dead            `json:"dead"`       // what is in DEAD at the end
	Redriven []Redrive         `json:"redriven"`   // what was there before
	Breaker  Breaker           `json:"breaker"`    // of the receiver that died and came back
	Crash    Crash             `json:"crash_loop"` // what the killer has cost
	Photos   Photos            `json:"photos"`     // what the one that is too large has cost
	Left     map[string]uint64 `json:"left"`       // messages by stream that should be empty
	Problems []string          `json:"problems"`
	Broker   string            `json:"broker"`
}

// Dead is a dead letter.
type Dead struct {
	Name     string      `json:"name"`
	ID       string      `json:"id"`
	Kind     string      `json:"kind"`
	Class    task.Class  `json:"class"`
	Reason   task.Reason `json:"reason"`
	Attempts int         `json:"attempts"`
	Deaths   int         `json:"deaths"`
	Error    string      `json:"error"`
}

// Redrive is a dead letter that was published again.
type Redrive struct {
	Name       string      `json:"name"`
	ID         string      `json:"id"`
	Reason     task.Reason `json:"reason"` // why it had died
	Attempts   int         `json:"attempts"`
	Generation int         `json:"generation"` // the one that was done
}

// Crash is what a task that kills its process has cost.
type Crash struct {
	Processes int `json:"processes"` // of its service that died
	Children  int `json:"children"`  // that ran it alone and died
	Limit     int `json:"limit"`     // how many deaths are allowed in all: max-deliver + 1
	Again     int `json:"again"`     // tasks beside it that ran to their end more than once
}

// Photos is what a photo that takes more memory than it may has cost, in a process of
// its own.
type Photos struct {
	OOM       int `json:"oom"`       // its processes that ended at their cap
	Processes int `json:"processes"` // of its service that died
}

func (r *Report) problem(format string, args ...any) {
	r.OK = false
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

const readLimit = 10 * time.Second

// settled returns once nothing is left to be done, or when ctx is done.
func (d *demo) settled(ctx context.Context) error {
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	for {
		left, err := d.left(ctx)
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// left counts what is in the streams of which a finished demo leaves nothing.
func (d *demo) left(ctx context.Context) (map[string]uint64, error) {
	left := map[string]uint64{}
	for _, name := range append(d.classStreams(), task.RetryStream) {
		s, err := d.s.JetStream().Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("count what is left in %s: %w", name, err)
		}
		if n := s.CachedInfo().State.Msgs; n > 0 {
			left[name] = n
		}
	}
	return left, nil
}

func (d *demo) classStreams() []string {
	var out []string
	for _, c := range d.fleet.Classes {
		out = append(out, c.Name.Stream())
	}
	return out
}

// report compares what the streams say with what the world outside saw.
func (d *demo) report(ctx context.Context) *Report {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	r := &Report{OK: true, Broker: d.s.URL(), Moves: map[string]int{}, Problems: []string{}, Dead: []Dead{}}
	letters := map[string]task.Reason{}
	for l, err := range deadletter.List(ctx, d.s.JetStream(), deadletter.Filter{}) {
		if err != nil {
			r.problem("%v", err)
			break
		}
		letters[l.ID] = l.Reason
		r.Dead = append(r.Dead, d.letter(&l))
	}
	d.ledger.die(letters)
	for _, part := range parts {
		r.Tasks = append(r.Tasks, d.ledger.tally(part))
	}
	r.Total, r.Waits = d.ledger.tally(""), d.ledger.waits()
	d.ledger.mu.Lock()
	for reason, n := range d.ledger.put {
		r.Moves[string(reason)] = n
	}
	forged := d.ledger.refused
	d.ledger.mu.Unlock()

	r.Breaker = d.breaker()
	slow, _ := d.fleet.Class(task.Slow)
	r.Crash.Processes, r.Crash.Children = d.deaths()
	r.Crash.Limit, r.Crash.Again = slow.MaxDeliver+1, d.ledger.tally(partWork).Twice
	for _, l := range r.Dead {
		if l.Name == tooLarge && strings.HasPrefix(l.Error, "oom: ") {
			r.Photos.OOM = l.Attempts
		}
	}
	d.mu.Lock()
	r.Photos.Processes = d.photos
	r.Redriven = slices.Clone(d.redriven)
	unexpected := slices.Clone(d.unexpected)
	d.mu.Unlock()
	var err error
	if r.Left, err = d.left(ctx); err != nil {
		r.problem("%v", err)
	}
	d.judge(r, forged, unexpected)
	return r
}

// judge lists what is wrong.
func (d *demo) judge(r *Report, forged int, unexpected []string) {
	const most = 20
	missing := d.ledger.missing()
	for _, text := range missing[:min(most, len(missing))] {
		r.problem("%s", text)
	}
	if n := len(missing) - most; n > 0 {
		r.problem("and %d more like that", n)
	}
	if n := r.Total.Done + r.Total.died(); n != r.Total.Published {
		r.problem("%d tasks were published, and %d are done or dead", r.Total.Published, n)
	}
	if len(r.Dead) != r.Total.died() {
		r.problem("DEAD holds %d letters, and %d tasks are dead", len(r.Dead), r.Total.died())
	}
	for _, stream := range append(d.classStreams(), task.RetryStream) {
		if n := r.Left[stream]; n > 0 {
			r.problem("%s still holds %d tasks", stream, n)
		}
	}
	for _, t := range r.Tasks {
		if t.Twice > 0 && t.Part != partWork { // those ran beside a death, and may
			r.problem("%s: %d tasks were done more than once although no process of theirs died", t.Part, t.Twice)
		}
	}
	if forged > 0 {
		r.problem("%d deliveries had a wrong signature", forged)
	}
	if c := d.ledger.tally(partCrash); c.Published > 0 && c.Dead[task.CrashLoop] != c.Published {
		r.problem("%s did not end in DEAD as %s", killer, task.CrashLoop)
	}
	if n := r.Crash.Processes + r.Crash.Children; n > r.Crash.Limit {
		r.problem("%s has cost %d processes, %d are allowed", killer, n, r.Crash.Limit)
	}
	if n := r.Photos.Processes; n > 0 {
		r.problem("%s has cost %s of its service", tooLarge, screen.Some(n, "process", "processes"))
	}
	for _, text := range unexpected {
		r.problem("unexpected: %s", text)
	}
}

func (d *demo) letter(l *deadletter.Letter) Dead {
	out := Dead{
		Name: d.ledger.name(l.ID), ID: l.ID, Kind: l.Subject.Kind(), Class: l.Subject.Class, Reason: l.Reason, Attempts: l.Attempt, Deaths: l.Deaths,
	}
	if n := len(l.Errors); n > 0 {
		out.Error = l.Errors[n-1].Error
	}
	return out
}

// report shows the report, below what is there.
func (sh *show) report(ctx context.Context, r *Report) {
	if sh.w == nil {
		return
	}
	sh.stop()
	sh.painting.Wait()
	if sh.live != nil {
		sh.paint(sh.d.s.State(ctx, 0)) // what there is in the end
	}
	sh.close()
	_, _ = fmt.Fprintln(sh.w, "\n"+strings.Join(r.Lines(sh.style), "\n")) // the reader may have gone
}

// Lines is the report for people.
func (r *Report) Lines(s screen.Style) []string {
	number := func(n int) string {
		if n == 0 {
			return s.Dim("0")
		}
		return screen.Count(n)
	}
	tasks := screen.Table{Head: []string{"TASKS", ">PUBLISHED", ">DONE", ">DEAD", ">TWICE", ">RETRIES", ">PARKED", "DEAD OF"}}
	for _, t := range append(slices.Clone(r.Tasks), r.Total) {
		name := t.Part
		if name == "" {
			name = s.Bold("all")
		}
		tasks.Add(name, number(t.Published), number(t.Done), number(t.died()), number(t.Twice), number(t.Retries), number(t.Parked), reasons(t.Dead))
	}
	waits := screen.Table{Head: []string{"STARTED AFTER", ">TASKS", ">P50", ">P99", ">MAX"}}
	for _, w := range r.Waits {
		waits.Add(w.Of, screen.Count(w.Count), screen.Span(w.P50), screen.Span(w.P99), screen.Span(w.Max))
	}
	out := append(tasks.Lines(s), "")
	out = append(append(out, waits.Lines(s)...), "")
	out = append(append(out, r.letters(s)...), "")
	for _, x := range r.Redriven {
		out = append(out, fmt.Sprintf("redriven: %s, %s after %d attempts, was delivered as generation %d", x.Name, x.Reason, x.Attempts, x.Generation))
	}
	out = append(out, r.Breaker.String())
	out = append(out, fmt.Sprintf("%s cost %s and %s (at most %d); %s beside it were done twice", killer,
		screen.Some(r.Crash.Processes, "process", "processes"), screen.Some(r.Crash.Children, "child", "children"), r.Crash.Limit,
		screen.Count(r.Crash.Again)))
	if n := r.Photos.OOM; n > 0 {
		out = append(out, fmt.Sprintf("%s ended %s at its memory cap of %d MiB, in a process of its own, and harmed nobody",
			tooLarge, screen.Some(n, "time", "times"), photoCap>>20))
	}
	out = append(out, "")
	if r.OK {
		return append(out,
			s.Good("ok")+fmt.Sprintf(": every task is accounted for, in %.1f s:", r.Seconds),
			fmt.Sprintf("%s published = %s done + %s dead, and nothing is left in TASKS and RETRY",
				screen.Count(r.Total.Published), screen.Count(r.Total.Done), screen.Count(r.Total.died())))
	}
	out = append(out, s.Bad("not ok")+fmt.Sprintf(", after %.1f s:", r.Seconds))
	for _, p := range r.Problems {
		out = append(out, "  - "+screen.Plain(p))
	}
	return out
}

// letters is the table of dead letters, with the last error of each below it.
func (r *Report) letters(s screen.Style) []string {
	t := screen.Table{Head: []string{"DEAD LETTER", "KIND", "CLASS", "REASON", ">ATTEMPTS", ">DEATHS"}}
	for _, l := range r.Dead {
		t.Add(l.Name, l.Kind, string(l.Class), string(l.Reason), strconv.Itoa(l.Attempts), strconv.Itoa(l.Deaths))
	}
	lines := t.Lines(s)
	out := lines[:1:1]
	for i, l := range r.Dead {
		out = append(out, lines[i+1], s.Dim("    "+short(l.Error, longError)))
	}
	return out
}

const longError = 76 // bytes
