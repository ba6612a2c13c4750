// Package screen writes to terminals: a block of lines that is painted again in
// place while other lines scroll by above it, tables, bars, and text made safe.
//
// # Concurrency
//
// A [Live] is safe for concurrent use, everything else is a value or a function.
package screen

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"
)

// Style colours text. The zero value leaves it as it is.
type Style struct{ colour bool }

// StyleOf is the style that w takes: colours on a terminal that understands them,
// unless NO_COLOR is set (no-color.org).
func StyleOf(w io.Writer) Style {
	return Style{IsTerminal(w) && os.Getenv("NO_COLOR") == ""}
}

// Dim is for what matters less.
func (s Style) Dim(text string) string { return s.paint("2", text) }

// Bold is for what to look at first.
func (s Style) Bold(text string) string { return s.paint("1", text) }

// Good is for what went well.
func (s Style) Good(text string) string { return s.paint("32", text) }

// Bad is for what is wrong.
func (s Style) Bad(text string) string { return s.paint("31", text) }

// Busy is for what is under way.
func (s Style) Busy(text string) string { return s.paint("36", text) }

// Odd is for what an operator should look at.
func (s Style) Odd(text string) string { return s.paint("33", text) }

func (s Style) paint(code, text string) string {
	if !s.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// IsTerminal reports whether w is a terminal on which a cursor can be moved.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// Width is how many columns text takes. Escape sequences of [Style] take none, and
// every other rune is taken for one.
func Width(text string) (n int) {
	escape := false
	for _, r := range text {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			n++
		}
	}
	return n
}

// Cut shortens text to a width, and ends what colour is on where it cuts.
func Cut(text string, width int) string {
	if width <= 0 || Width(text) <= width {
		return text
	}
	n, escape, coloured := 0, false, false
	for i, r := range text {
		switch {
		case r == '\x1b':
			escape, coloured = true, true
		case escape:
			escape = r != 'm'
		case n == width-1:
			text = text[:i] + "…"
			if coloured {
				text += "\x1b[0m"
			}
			return text
		default:
			n++
		}
	}
	return text
}

// Plain is text from a stranger on one line, with nothing that a terminal would
// act upon.
func Plain(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '·'
		}
		return r
	}, text)
	return strings.Join(strings.Fields(text), " ")
}

// Span is a duration in at most two units, "-" for none.
func Span(d time.Duration) string {
	switch {
	case d <= 0:
		return "-"
	case d < time.Millisecond:
		return fmt.Sprintf("%.2fms", d.Seconds()*1e3)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0fms", d.Seconds()*1e3)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// Count is n with a comma between thousands.
func Count[N ~int | ~uint64 | ~int64](n N) string {
	digits := fmt.Sprintf("%d", n)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Some is n with its noun: "1 task", "2 tasks".
func Some[N ~int | ~uint64 | ~int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + many
}

// Bar is how far part is of whole, in that many columns.
func Bar(part, whole, width int) string {
	full := 0
	if whole > 0 {
		full = min(width, part*width/whole)
	}
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}
