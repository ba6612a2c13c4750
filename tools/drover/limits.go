package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/quota"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type limitsCmd struct {
	Service string `placeholder:"NAME" help:"Only those of this service."`
	Waiting bool   `help:"Only those whose tasks wait."`
}

// Help is the long text of --help.
func (limitsCmd) Help() string {
	return `A kind with a rate limit starts at most so many tasks in a time for each key, over all
processes of its service. The others wait on timers with reason "limit" and burn no
attempt; tasks of other keys flow.

    LIMIT     starts in any time of that length
    WAITING   about how many tasks are in line
    FOR       until the last of them comes back

A key that was not used for half a minute and has nobody in line is not shown.

Examples:

    drover limits
    drover limits --service webhook --waiting --json`
}

// limitState is a rate limit as --json writes it.
type limitState struct {
	Service string    `json:"service"`
	Key     string    `json:"key"`
	Limit   int       `json:"limit"`
	Per     float64   `json:"per_seconds"`
	Waiting int       `json:"waiting"`      // about how many tasks are in line
	Line    float64   `json:"line_seconds"` // until the last of them comes back
	At      time.Time `json:"at"`           // when it was read
}

func (c *limitsCmd) Run(ctx context.Context, app *App) error {
	var all []limitState
	err := talkOf(ctx, app, c.Service, func(ctx context.Context, js jetstream.JetStream) (err error) {
		now := time.Now().UTC()
		for e, eerr := range quota.List(ctx, js, c.Service) {
			switch s := limitOf(e, now); {
			case eerr != nil: // one that cannot be read hides no other
				err = firstError(err, eerr)
			case s.Waiting > 0 || !c.Waiting:
				all = append(all, s)
			}
		}
		return err
	})
	slices.SortFunc(all, func(a, b limitState) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), -cmp.Compare(a.Waiting, b.Waiting), cmp.Compare(a.Key, b.Key))
	})
	return listing(app, all, err, func() *screen.Table { return limitTable(screen.StyleOf(app.Stdout), all) }, "no rate limit is in use",
		give{"KEY", 12})
}

func limitOf(e quota.Entry, now time.Time) limitState {
	return limitState{
		Service: e.Service, Key: e.Key, Limit: e.Limit, Per: e.Per.Seconds(),
		Waiting: e.Waiting(now), Line: max(0, e.Line.Sub(now).Seconds()), At: now,
	}
}

func limitTable(style screen.Style, all []limitState) *screen.Table {
	t := &screen.Table{Head: []string{"SERVICE", "KEY", ">LIMIT", ">WAITING", ">FOR"}}
	for _, s := range all {
		left := "-"
		if s.Waiting > 0 {
			left = screen.Span(seconds(s.Line))
		}
		t.Add(screen.Plain(s.Service), screen.Cut(screen.Plain(s.Key), destinationWidth),
			fmt.Sprintf("%s in %v", screen.Count(s.Limit), screen.Span(seconds(s.Per))), quiet(style, s.Waiting), left)
	}
	return t
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond)
}

// heldBack counts the keys of each service whose tasks wait for their rate. It is a
// hint: what cannot be read is not counted, and `drover limits` says why.
func heldBack(ctx context.Context, js jetstream.JetStream) map[string]int {
	out := map[string]int{}
	now := time.Now()
	for e, err := range quota.List(ctx, js, "") {
		if err == nil && e.Busy(now) {
			out[e.Service]++
		}
	}
	return out
}
