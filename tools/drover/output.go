package main

import (
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"

	"github.com/droverhq/drover/tools/supervise/screen"
)

// lines writes text for people, cut where a terminal would wrap it.
func (a *App) lines(lines ...string) {
	width := 0
	if f, ok := a.Stdout.(*os.File); ok && screen.IsTerminal(f) {
		if cols, _, err := term.GetSize(int(f.Fd())); err == nil {
			width = cols
		}
	}
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(screen.Cut(l, width) + "\n")
	}
	_, _ = io.WriteString(a.Stdout, b.String()) // nobody reads any more
}

// table writes t for people.
func (a *App) table(t *screen.Table) { a.lines(t.Lines(screen.StyleOf(a.Stdout))...) }

// listing writes all that there is: JSON lines for programs, a table for people, or none
// when there is nothing. It returns err, of what could not be read beside them.
func listing[T any](a *App, all []T, err error, table func() *screen.Table, none string) error {
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
		a.table(table())
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
