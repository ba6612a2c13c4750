// Package ratelimit decides when tasks may start, so that no window of time holds
// more of them than a limit. It knows no broker and no clock; package quota shares
// what it decides between processes, and package worker asks that.
//
// # Semantics
//
// A limit is a schedule of slots, [Policy.Spacing] apart. A task takes one slot and
// starts at its time or up to [Policy.Slack] later; a slot that nobody used by then
// is gone. So the starts within any time of length Per belong to slots within Per
// and Slack, and the spacing is chosen so that these are at most Limit. That holds
// whoever uses the slots, and whatever becomes of those who took them.
//
// With a backlog Per/Spacing tasks start in each Per: 98 of 100 in a minute, 95 of
// 100 in a second. After a quiet time the slots of the last Slack can be used at once.
//
// Tasks that find no slot wait in line: each gets a time to come back, a little
// closer together than the slots, so that one that does not come costs nothing.
//
// # Concurrency
//
// A [Schedule] is not safe for concurrent use. All else here is a value.
package ratelimit

import (
	"errors"
	"fmt"
	"time"
)

// Policy says how many tasks may start in a time. It has no useful zero value:
// Limit and Per must be given.
type Policy struct {
	Limit int           // starts within any time of length Per, at most 1,000,000 a second
	Per   time.Duration // 1 s to 31 days

	// Burst is how many may start at once after a quiet time, at most half of Limit;
	// 0 means what Slack allows without it, some 2 % of Limit. It is taken from the
	// steady rate: with a backlog Limit-Burst start in each Per.
	Burst int
}

const (
	minPer    = time.Second
	maxPer    = 31 * 24 * time.Hour
	minStep   = time.Microsecond      // between slots
	minSlack  = 50 * time.Millisecond // a process that is busy stands still for that long
	slackPart = 50                    // of Per
)

// Validate returns an error that names every field out of range.
func (p Policy) Validate() error {
	var errs []error
	if p.Limit < 1 {
		errs = append(errs, fmt.Errorf("rate limit of %d: want 1 or more", p.Limit))
	}
	if p.Per < minPer || p.Per > maxPer {
		errs = append(errs, fmt.Errorf("rate limit per %v: want %v to %v", p.Per, minPer, maxPer))
	} else if int64(p.Limit) > int64(p.Per/minStep) {
		errs = append(errs, fmt.Errorf("rate limit of %d per %v: at most a million a second can be kept", p.Limit, p.Per))
	}
	if p.Burst < 0 || p.Burst > p.Limit/2 {
		errs = append(errs, fmt.Errorf("rate limit of %d with a burst of %d: want 0 to %d, half of the limit", p.Limit, p.Burst, p.Limit/2))
	}
	return errors.Join(errs...)
}

// Slack is how long after its time a slot may still be used: a fiftieth of Per, at
// least 50 ms, or longer for the sake of Burst.
func (p Policy) Slack() time.Duration {
	slack := max(p.Per/slackPart, minSlack)
	if p.Burst > 0 {
		slack = max(slack, time.Duration(float64(p.Per)*float64(p.Burst)/float64(p.Limit-p.Burst)))
	}
	return slack
}

// Spacing is the time between slots: what lies within Per and Slack is Limit of them.
func (p Policy) Spacing() time.Duration {
	n := time.Duration(p.Limit)
	return (p.Per + p.Slack() + n - 1) / n
}
