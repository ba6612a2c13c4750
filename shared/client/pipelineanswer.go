package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// answered takes an answer of the broker to the slot it is for.
func (p *pipeline) answered(ctx context.Context, m *nats.Msg) {
	token, err := strconv.ParseUint(m.Subject[len(p.inbox):], 36, 64)
	i := int(token % window)
	if err != nil || i >= len(p.slots) || p.slots[i].token != token { // the task has its outcome
		if len(m.Data) > 0 {
			p.quiet = 0
		}
		return
	}
	if !p.slots[i].out { // an answer that was given up
		p.retry = slices.DeleteFunc(p.retry, func(j int) bool { return i == j })
	}
	p.slots[i].out = false
	var a answer
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		err = nats.ErrNoResponders
	} else {
		a, err = parse(m.Data, p.stream)
		p.stream = a.stream
	}
	p.judge(ctx, i, a, err)
}

// judge settles the task in slot i after a try, or puts it by for another.
func (p *pipeline) judge(ctx context.Context, i int, a answer, err error) {
	s := &p.slots[i]
	f, err := judge(&s.Msg, err)
	switch {
	case f == isRefused && errors.Is(err, ErrFull):
		p.quiet = 0
		p.refused(ctx, i, p.c.full(ctx, &s.Msg, err))
		return
	case f == isStored || f == isRefused:
		p.quiet, p.pause = 0, firstPause
		if f == isStored {
			p.room.until, p.room.pause = time.Time{}, 0
			if p.gate > 0 {
				p.gate = (p.gate + 1) % len(p.slots)
			}
		}
		p.end(ctx, i, a, err)
		return
	case f == isOver:
		p.end(ctx, i, a, err)
		return
	case f == isUnknown:
		if derr := denied(p.c.nc, p.complaint, s.Subject); derr != nil {
			p.gone[s.Subject] = derr
		} else {
			s.doubt = true
		}
	case errors.Is(err, nats.ErrNoResponders) && p.gone[s.Subject] == nil:
		if time.Since(p.asked) >= lookupLimit { // one question for the window
			if merr := p.c.missing(ctx, &s.message); merr != nil {
				p.gone[s.Subject] = merr
			}
			p.asked = time.Now()
		}
		if s.absent != nil {
			err = s.absent
		}
	}
	now := time.Now()
	switch gone := p.gone[s.Subject]; {
	case gone != nil:
		p.end(ctx, i, a, gone)
	case s.expired(now):
		p.end(ctx, i, a, fmt.Errorf("after %d tries in %v: %w", s.tries, now.Sub(s.sent).Round(time.Second), err))
	default:
		p.last = err
		p.retry = append(p.retry, i)
		if !now.Before(p.resume) {
			p.resume = now.Add(jitter(p.pause))
			p.pause = min(2*p.pause, longestPause)
		}
	}
}

// refused puts by the task in slot i, for which there is no room, or gives it its
// outcome when it has waited long enough.
func (p *pipeline) refused(ctx context.Context, i int, full *FullError) {
	s, now := &p.slots[i], time.Now()
	if now.Before(p.resume) && p.gate == 1 { // of the window that went out before the first refusal
		s.full = full
		p.retry = append(p.retry, i)
		return
	}
	wait, ok := p.room.next(now, full)
	if !ok || s.expired(now) {
		p.end(ctx, i, answer{}, p.room.gaveUp(full))
		return
	}
	s.full = full
	p.retry = append(p.retry, i)
	p.gate, p.resume = 1, now.Add(wait)
}

// crowded ends the tasks that wait for room when none was found for too long. The
// others are sent once more: the class may not be theirs.
func (p *pipeline) crowded(ctx context.Context, now time.Time) {
	if p.room.until.IsZero() || now.Before(p.room.until) {
		return
	}
	p.gate = 0
	p.retry = slices.DeleteFunc(p.retry, func(i int) bool {
		full := p.slots[i].full
		if full != nil {
			p.end(ctx, i, answer{}, p.room.gaveUp(full))
		}
		return full != nil
	})
}
