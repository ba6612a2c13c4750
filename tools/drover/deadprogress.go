package main

import (
	"fmt"
	"os"
	"time"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// stage are the keys of the lines about stages that dead redrive and dead edit of
// many write with --json, between those about letters.
type stage struct {
	Event    string `json:"event"` // "began", "failed", "ended" (a stage), or "over" (all)
	Stage    int    `json:"stage"`
	Redriven int    `json:"redriven"`
	Ended    int    `json:"ended"`
	Failed   int    `json:"failed"` // again
	Waiting  int    `json:"waiting"`
	Skipped  int    `json:"skipped"`
	Refused  int    `json:"refused"`
	ID       string `json:"id,omitempty"` // of the task that failed
	Kind     string `json:"kind,omitempty"`
	Fate     string `json:"fate,omitempty"` // "retrying" or "died again"
	Error    string `json:"error,omitempty"`
}

// progress tells how a canary goes: one line that changes on a terminal, lines now
// and then elsewhere.
type progress struct {
	m       *mover
	live    *screen.Live // nil when there is no terminal
	total   int
	done    string // "redriven"
	letters bool   // each is told
	last    deadletter.Event
	said    time.Time
	painted time.Time
	failed  int // that were told
}

const (
	sayEvery   = 10 * time.Second
	paintEvery = 100 * time.Millisecond
	barWidth   = 12 // columns, so that the line fits a terminal of 80
	failedTold = 10 // failures; of more only the number
)

func (m *mover) progress(total int, done string, each bool) *progress {
	p := &progress{m: m, total: total, done: done, letters: each || m.app.JSON, said: time.Now()}
	if f, ok := m.app.Stdout.(*os.File); ok && screen.IsTerminal(f) && !m.app.JSON && !each {
		p.live = screen.NewLive(f)
	}
	return p
}

// say writes a line that stays.
func (p *progress) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if p.live != nil {
		p.live.Print(line)
		return
	}
	p.m.app.printf("%s\n", line)
}

func (p *progress) observe(e deadletter.Event) {
	p.last = e
	switch e.What {
	case deadletter.Redriven:
		if p.letters {
			_ = p.m.told(e.Letter.ID, e.Letter, movedTo(p.done, e.Receipt), nil)
		}
		if e.Err != nil {
			p.m.app.complaint(screen.Plain(e.Err.Error()))
		}
	case deadletter.Refused:
		if p.m.app.JSON {
			_ = p.m.told(e.Letter.ID, e.Letter, moved{}, e.Err)
		} else {
			p.say("stays: %s", screen.Plain(e.Err.Error()))
		}
	case deadletter.Skipped:
		if !p.m.app.JSON {
			p.say("skipped %s %s: somebody else redrove or discarded it", e.Letter.Subject.Kind(), screen.Plain(e.Letter.ID))
		}
	case deadletter.Failed:
		p.failure(e)
	case deadletter.Began:
		if !p.letters {
			p.say("stage %d: %s", e.Stage, p.size(e))
		}
		p.event("began", e)
	case deadletter.Ended:
		if !p.letters {
			p.say("stage %d: %s", e.Stage, p.counts(e.Tally))
		}
		p.event("ended", e)
	case deadletter.Looked:
	}
	p.now()
}

func (p *progress) size(e deadletter.Event) string {
	if e.Size == 0 {
		return "the other " + letters(p.total-e.Tally.Redriven-e.Tally.Skipped-e.Tally.Refused)
	}
	return letters(min(e.Size, p.total-e.Tally.Redriven))
}

func (p *progress) failure(e deadletter.Event) {
	switch p.failed++; {
	case p.m.app.JSON:
		p.event("failed", e)
	case p.failed <= failedTold:
		p.say("failed again: %s %s (%s): %s", e.Letter.Subject.Kind(), screen.Plain(e.Letter.ID), e.Fate, screen.Cut(headline(e.Text), errorWidth))
	case p.failed == failedTold+1:
		p.say("and more, which are only counted")
	}
}

// now shows where it stands.
func (p *progress) now() {
	switch {
	case p.letters:
	case p.live != nil && time.Since(p.painted) > paintEvery:
		p.painted = time.Now()
		t := p.last.Tally
		p.live.Paint([]string{fmt.Sprintf("stage %d  %s  %s of %s  ", p.last.Stage, screen.Bar(t.Redriven, p.total, barWidth), screen.Count(t.Redriven), screen.Count(p.total)) + ends(t)})
	case p.live != nil:
	case time.Since(p.said) > sayEvery:
		p.said = time.Now()
		p.say("stage %d: %s", p.last.Stage, p.counts(p.last.Tally))
	}
}

func (p *progress) counts(t deadletter.Tally) string {
	return fmt.Sprintf("%s %s, %s", screen.Count(t.Redriven), p.done, ends(t))
}

func ends(t deadletter.Tally) string {
	return fmt.Sprintf("%s ended well, %s failed again, %s under way", screen.Count(t.Done), screen.Count(t.Failed), screen.Count(t.Waiting))
}

// end says how far it came.
func (p *progress) end(t deadletter.Tally) {
	if p.live != nil {
		p.live.Paint(nil)
		p.live.Close()
		p.live = nil
	}
	switch {
	case p.m.app.JSON:
		p.event("over", deadletter.Event{Stage: p.last.Stage, Tally: t})
	case p.letters:
	default:
		p.say("%s; %s stay", p.counts(t), screen.Count(p.total-t.Redriven-t.Skipped))
	}
}

func (p *progress) event(name string, e deadletter.Event) {
	if !p.m.app.JSON {
		return
	}
	s := stage{
		Event: name, Stage: e.Stage, Redriven: e.Tally.Redriven, Ended: e.Tally.Done, Failed: e.Tally.Failed, Waiting: e.Tally.Waiting,
		Skipped: e.Tally.Skipped, Refused: e.Tally.Refused, ID: e.Letter.ID, Error: e.Text,
	}
	if e.Letter.ID != "" {
		s.Kind, s.Fate = e.Letter.Subject.Kind(), e.Fate.String()
	}
	_ = p.m.app.encode(s) // nobody reads any more
}
