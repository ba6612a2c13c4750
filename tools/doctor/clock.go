package doctor

import (
	"fmt"
	"sync"
	"time"
)

// clock is how far the broker's clock is ahead of ours, give or take.
type clock struct {
	ahead, give time.Duration
	known       bool
}

// clocks collects readings of the broker's clock.
type clocks struct {
	mu  sync.Mutex
	got clock
}

// add takes a reading that was made between sent and heard, and keeps the one that
// says most.
func (c *clocks) add(sent, at, heard time.Time) {
	if at.IsZero() {
		return
	}
	give := heard.Sub(sent) / 2
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.got.known || give < c.got.give {
		c.got = clock{ahead: at.Sub(sent.Add(give)), give: give, known: true}
	}
}

func (c *clocks) best() clock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got
}

// clockOff is how far apart clocks may be: timers fire by the broker's, deadlines
// and attempts are counted by those of publishers and workers.
const clockOff = time.Second

func lookClock(s *snapshot) ([]Finding, Check) {
	if !s.clock.known {
		return nil, skip("no stream has told the broker's time")
	}
	ahead, word := s.clock.ahead, "ahead of"
	if ahead < 0 {
		ahead, word = -ahead, "behind"
	}
	text := fmt.Sprintf("the broker's clock is %v %s this machine's, give or take %v",
		ahead.Round(time.Millisecond), word, s.clock.give.Round(time.Millisecond))
	if ahead-s.clock.give <= clockOff {
		return nil, Check{Text: text}
	}
	return []Finding{find("clock", s.url, "the clocks of the broker and of this machine differ", 0).
			seen(text + " (time stamps of stream infos)").
			follows("Deadlines set here pass too early or too late, and delayed tasks start off their time by as much.").
			remedy("chronyc tracking   # on this machine and on the broker's: one of them has lost its time server")},
		Check{Text: text}
}
