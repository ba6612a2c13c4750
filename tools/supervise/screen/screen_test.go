package screen_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/tools/supervise/screen"
)

const (
	red   = "\x1b[31m"
	reset = "\x1b[0m"
)

func TestCut(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		width      int
		want       string
	}{
		{"fits", "abc", 3, "abc"},
		{"too long", "abcd", 3, "ab…"},
		{"no limit", "abcd", 0, "abcd"},
		{"colours take no room", red + "abc" + reset, 3, red + "abc" + reset},
		{"a cut ends the colour", red + "abcd" + reset, 3, red + "ab…" + reset},
		{"runes, not bytes", "äöü", 3, "äöü"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := screen.Cut(test.text, test.width); got != test.want {
				t.Errorf("Cut(%q, %d) = %q, want %q", test.text, test.width, got, test.want)
			}
		})
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	tab := screen.Table{Head: []string{"NAME", ">N", "WHY"}}
	tab.Add("email-1", "7", "")
	tab.Add(red+"w"+reset, "1,000", "gone")
	want := []string{
		"NAME         N  WHY",
		"email-1      7",
		red + "w" + reset + "        1,000  gone",
	}
	if d := cmp.Diff(want, tab.Lines(screen.Style{})); d != "" {
		t.Errorf("Lines() (-want +got):\n%s", d)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	got := []string{
		screen.Plain("a\x1b[2Jb\r\n c"), screen.Count(1234567), screen.Count(-123), screen.Count(-1234), screen.Some(1, "mail", "mails"), screen.Some(2000, "mail", "mails"),
		screen.Bar(1, 4, 8), screen.Bar(9, 4, 2), screen.Bar(0, 0, 2),
		screen.Span(0), screen.Span(470 * time.Microsecond), screen.Span(3400 * time.Microsecond), screen.Span(640 * time.Millisecond), screen.Span(12 * time.Second), screen.Span(50 * time.Hour),
	}
	want := []string{
		"a·[2Jb c", "1,234,567", "-123", "-1,234", "1 mail", "2,000 mails",
		"██░░░░░░", "██", "░░",
		"-", "0.47ms", "3.4ms", "640ms", "12s", "2d2h",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
