package main

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/droverhq/drover/tools/supervise/screen"
)

// width is how many columns the terminal has that text goes to, and 0 where there is
// none: then nothing is shortened. COLUMNS goes before what the terminal says.
func (a *App) width() int {
	f, ok := a.Stdout.(*os.File)
	if !ok || !screen.IsTerminal(f) {
		return 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	cols, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return cols
}

// give is a step by which a table gets narrower: a column is shortened, down to a
// number of columns of the terminal, or left out where that is 0.
type give struct {
	column string
	to     int
}

// narrowed is t within a width, after as few of the steps as it takes: those come
// first that hurt least. What room is left then goes to the columns that were
// shortened. It may still be too wide after all steps.
func narrowed(t *screen.Table, width int, steps []give) *screen.Table {
	natural := columns(t)
	now := slices.Clone(natural)
	at := func(s give) int {
		return slices.IndexFunc(t.Head, func(h string) bool { return strings.TrimPrefix(h, ">") == s.column })
	}
	taken := 0
	for _, s := range steps {
		if over(now, width) <= 0 {
			break
		}
		i := at(s)
		if s.to == 0 {
			now[i] = gone
		} else if least := max(s.to, screen.Width(s.column)); now[i] > least {
			now[i] = max(least, now[i]-over(now, width))
		}
		taken++
	}
	for _, s := range steps[:taken] {
		if i := at(s); now[i] != gone {
			now[i] = min(natural[i], now[i]+max(0, -over(now, width)))
		}
	}
	for _, s := range slices.Backward(steps[:taken]) { // nothing is left out for no gain
		if i := at(s); now[i] == gone {
			if now[i] = natural[i]; over(now, width) > 0 {
				now[i] = gone
			}
		}
	}
	return cutTo(t, now)
}

const (
	gone = -1 // the width of a column that is left out
	gap  = 2  // between columns
)

// columns are the widths that the columns of a table want.
func columns(t *screen.Table) []int {
	out := make([]int, len(t.Head))
	for i, h := range t.Head {
		out[i] = screen.Width(strings.TrimPrefix(h, ">"))
		for _, r := range t.Rows {
			out[i] = max(out[i], screen.Width(r[i]))
		}
	}
	return out
}

// over is by how much columns of these widths are wider than a terminal.
func over(widths []int, width int) int {
	sum := -gap
	for _, w := range widths {
		if w != gone {
			sum += w + gap
		}
	}
	return sum - width
}

// cutTo is t with columns of these widths.
func cutTo(t *screen.Table, widths []int) *screen.Table {
	cut := func(cells []string, shorten func(string, int) string) []string {
		var out []string
		for i, c := range cells {
			if widths[i] != gone {
				out = append(out, shorten(c, widths[i]))
			}
		}
		return out
	}
	out := &screen.Table{Head: cut(t.Head, func(h string, _ int) string { return h })}
	for _, r := range t.Rows {
		out.Rows = append(out.Rows, cut(r, screen.Cut))
	}
	return out
}

// has reports whether a table shows a column.
func has(t *screen.Table, column string) bool {
	return slices.Contains(t.Head, column) || slices.Contains(t.Head, ">"+column)
}

// wrap breaks text between words into lines of at most width columns. What stands in
// backquotes is a command to copy: it stays in one piece where a line has room for it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range phrases(text, width) {
		if line != "" && screen.Width(line)+1+screen.Width(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// phrases are the words of a text, and its commands where they fit a width.
func phrases(text string, width int) []string {
	var out, command []string
	for word := range strings.FieldsSeq(text) {
		opens := strings.Count(word, "`")%2 == 1
		switch {
		case len(command) == 0 && !opens:
			out = append(out, word)
			continue
		case len(command) == 0 || !opens:
			command = append(command, word)
			continue
		}
		command = append(command, word)
		if whole := strings.Join(command, " "); screen.Width(whole) <= width {
			command = []string{whole}
		}
		out, command = append(out, command...), nil
	}
	return append(out, command...)
}

// wrapped are notes below a table, each on as many lines as it takes.
func (a *App) wrapped(notes ...string) []string {
	return wrappedTo(a.width(), notes)
}

func wrappedTo(width int, notes []string) []string {
	if width == 0 {
		return notes
	}
	var out []string
	for _, n := range notes {
		for i, line := range wrap(n, max(1, width-len(continued))) {
			if i > 0 {
				line = continued + line
			}
			out = append(out, line)
		}
	}
	return out
}

const continued = "  " // before the second line of a note, and those that follow
