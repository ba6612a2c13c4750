package main

import (
	"fmt"
	"strings"

	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// tense is how a plan or an apply speaks of its changes.
type tense struct{ create, update, created, updated string }

var (
	future = tense{"create", "change", "to create", "to change"}
	past   = tense{"created", "changed", "created", "changed"}
)

// changes shows a block for each change, and sums them up.
func (a *App) changes(changes []streams.Change, t tense) {
	style, width := screen.StyleOf(a.Stdout), a.width()
	count := map[streams.Action]int{}
	for _, c := range changes {
		count[c.Action]++
		a.printf("%s\n", strings.Join(block(c, t, style, width), "\n"))
	}
	var sum []string
	for _, s := range []struct {
		action streams.Action
		text   string
	}{{streams.Create, t.created}, {streams.Update, t.updated}, {streams.Refuse, "refused"}, {streams.Extra, "extra"}} {
		if n := count[s.action]; n > 0 {
			sum = append(sum, fmt.Sprintf("%d %s", n, s.text))
		}
	}
	if sum != nil {
		a.printf("%s\n", strings.Join(sum, ", "))
	}
}

const noteWidth = 88 // columns of a note where there is no terminal, or a wide one

// block is one change: what it is, each field in a line, why, and commands.
func block(c streams.Change, t tense, style screen.Style, width int) []string {
	var head string
	switch c.Action {
	case streams.Create:
		head = style.Good("+ " + t.create)
	case streams.Update:
		head = style.Odd("~ " + t.update)
	case streams.Refuse:
		head = style.Bad("! refused")
	case streams.Extra:
		head = style.Dim("? extra")
	}
	out := []string{head + " " + style.Bold(c.Object)}
	column := 0
	for _, f := range c.Fields {
		column = max(column, screen.Width(f.Field))
	}
	for _, f := range c.Fields {
		value := f.To
		if f.From != "" {
			value = style.Dim(f.From) + " → " + f.To
		}
		out = append(out, screen.Cut("    "+f.Field+strings.Repeat(" ", column-screen.Width(f.Field)+2)+value, width))
	}
	if width == 0 || width > noteWidth {
		width = noteWidth
	}
	for _, line := range wrap(c.Note, width-4) {
		out = append(out, "    "+line)
	}
	for _, d := range c.Do { // whole, to be copied
		out = append(out, "        "+style.Busy(d))
	}
	return append(out, "")
}
