package main

import (
	"io"
	"strings"
	"unicode"

	"github.com/droverhq/drover/tools/supervise/screen"
)

// lines writes text for people.
func (a *App) lines(lines ...string) {
	_, _ = io.WriteString(a.Stdout, strings.Join(lines, "\n")+"\n") // nobody reads any more
}

// fit lays t out for people. On a terminal it gets narrower by these steps, and in the
// end its lines are cut. It returns what is shown of t, too.
func (a *App) fit(t *screen.Table, steps ...give) ([]string, *screen.Table) {
	width := a.width()
	if width > 0 {
		t = narrowed(t, width, steps)
	}
	lines := t.Lines(screen.StyleOf(a.Stdout))
	for i, l := range lines {
		lines[i] = screen.Cut(l, width)
	}
	return lines, t
}

// table writes t for people, and returns what is shown of it.
func (a *App) table(t *screen.Table, steps ...give) *screen.Table {
	lines, t := a.fit(t, steps...)
	a.lines(lines...)
	return t
}

// note writes what is to be said below a table. It is never cut.
func (a *App) note(text string) { a.lines(append([]string{""}, a.wrapped(text)...)...) }

// listing writes all that there is: JSON lines for programs, a table for people, or none
// when there is nothing. It returns err, of what could not be read beside them.
func listing[T any](a *App, all []T, err error, table func() *screen.Table, none string, steps ...give) error {
	if a.JSON {
		for _, v := range all {
			if err := a.encode(v); err != nil {
				return err
			}
		}
		return err
	}
	switch {
	case len(all) > 0:
		a.table(table(), steps...)
	case err == nil:
		a.printf("%s\n", none)
	}
	return err
}

// headline is the first line of text from a stranger: of a panic what it said, without
// the stack.
func headline(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return screen.Plain(line)
}

// printable is text from a stranger that keeps its lines, with nothing else that a
// terminal would act upon. screen.Plain puts it on one line.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, strings.ReplaceAll(text, "\r\n", "\n"))
}
