package supervise

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// Share is one service's share of one class: its live lane and the lane of its
// retries in one line.
type Share struct {
	Class    task.Class    `json:"class"`
	Service  string        `json:"service"`
	Depth    uint64        `json:"depth"`     // wait for a worker, retries that are due included
	Oldest   time.Duration `json:"-"`         // how long the first of them has waited
	InFlight int           `json:"in_flight"` // held by workers
	Timers   uint64        `json:"timers"`    // retries that are not yet due
	Dead     uint64        `json:"dead"`      // dead letters
}

// Shares adds up lanes, in their order.
func Shares(lanes []streams.Lane) []Share {
	var out []Share
	at := map[string]int{}
	for _, l := range lanes {
		key := string(l.Class) + "/" + l.Service
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, Share{Class: l.Class, Service: l.Service})
		}
		s := &out[i]
		s.Depth += l.Depth
		s.Oldest = max(s.Oldest, l.WaitingAge)
		s.InFlight += l.InFlight
		s.Timers += l.Waiting
		s.Dead += l.Dead
	}
	return out
}

// LaneLines is the table of what waits, runs and died.
func (st *State) LaneLines(style screen.Style) []string {
	t := screen.Table{Head: []string{"CLASS", "SERVICE", ">DEPTH", ">OLDEST", ">IN FLIGHT", ">RETRY", ">DEAD"}}
	for _, s := range Shares(st.Lanes) {
		dead := number(style, s.Dead)
		if s.Dead > 0 {
			dead = style.Bad(screen.Count(s.Dead))
		}
		t.Add(string(s.Class), s.Service, number(style, s.Depth), screen.Span(s.Oldest), number(style, s.InFlight), number(style, s.Timers), dead)
	}
	out := t.Lines(style)
	if st.Err != nil {
		out = append(out, style.Odd("some lanes cannot be read: "+screen.Plain(st.Err.Error())))
	}
	return out
}

// number is n, and dim when it is nothing.
func number[N ~int | ~uint64](style screen.Style, n N) string {
	if n == 0 {
		return style.Dim("0")
	}
	return screen.Count(n)
}

// ProcessLines is the table of processes.
func (st *State) ProcessLines(style screen.Style, now time.Time) []string {
	t := screen.Table{Head: []string{"PROCESS", ">PID", ">UP", ">RESTARTS", "STATE"}}
	for _, p := range st.Processes {
		pid, up := "-", "-"
		if p.PID != 0 {
			pid, up = strconv.Itoa(p.PID), screen.Span(now.Sub(p.Since))
		}
		state := screen.Plain(p.Status)
		switch {
		case p.Ready:
			state = style.Good(state)
		case p.Status == statusStarting, p.Status == statusDraining, p.Status == statusDrained:
			state = style.Busy(state)
		default:
			state = style.Odd(state)
		}
		t.Add(p.Name, pid, up, number(style, p.Restarts), state)
	}
	return t.Lines(style)
}

// Summary is the state in one line.
func (st *State) Summary() string {
	var parts []string
	ready := 0
	for _, p := range st.Processes {
		if p.Ready {
			ready++
			continue
		}
		parts = append(parts, p.Name+": "+screen.Plain(p.Status))
	}
	parts = append([]string{fmt.Sprintf("%d of %s ready", ready, screen.Some(len(st.Processes), "process", "processes"))}, parts...)
	var sum Share
	for _, s := range Shares(st.Lanes) {
		sum.Depth += s.Depth
		sum.Oldest = max(sum.Oldest, s.Oldest)
		sum.InFlight += s.InFlight
		sum.Timers += s.Timers
		sum.Dead += s.Dead
	}
	waiting := "depth " + screen.Count(sum.Depth)
	if sum.Depth > 0 {
		waiting += " (oldest " + screen.Span(sum.Oldest) + ")"
	}
	parts = append(parts, waiting, "in flight "+screen.Count(sum.InFlight), "retry "+screen.Count(sum.Timers), "dead "+screen.Count(sum.Dead))
	if st.Err != nil {
		parts = append(parts, "some lanes cannot be read")
	}
	return strings.Join(parts, " · ")
}
