package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/tools/supervise/screen"
)

// A table gives up what its steps say, as little as it takes, and what is worth most
// stays longest.
func TestNarrowed(t *testing.T) {
	t.Parallel()
	table := screen.Table{Head: []string{">COUNT", "REASON", ">FIRST", "EXAMPLE", "ERROR"}}
	table.Add("30", "permanent", "2m1s", "order-17-mail", "550 no such mailbox <ada@example.org>")
	table.Add("1", "failed", "-", "b", "\x1b[31mtimeout\x1b[0m")
	steps := []give{{"ERROR", 20}, {"FIRST", 0}, {"EXAMPLE", 0}, {"ERROR", 10}}
	for _, test := range []struct {
		name  string
		width int
		want  string
	}{
		{"room for all", 79, "COUNT  REASON     FIRST  EXAMPLE        ERROR|   30  permanent   2m1s  order-17-mail  550 no such mailbox <ada@example.org>"},
		{"an error in part", 70, "COUNT  REASON     FIRST  EXAMPLE        ERROR|   30  permanent   2m1s  order-17-mail  550 no such mailbox <ada@exam…"},
		{"no time", 59, "COUNT  REASON     EXAMPLE        ERROR|   30  permanent  order-17-mail  550 no such mailbox <ada@…"},
		{"an example, barely", 53, "COUNT  REASON     EXAMPLE        ERROR|   30  permanent  order-17-mail  550 no such mailbox…"},
		{"no example", 45, "COUNT  REASON     ERROR|   30  permanent  550 no such mailbox <ada@e…"},
		{"less than the least", 12, "COUNT  REASON     ERROR|   30  permanent  550 no su…"},
	} {
		got := narrowed(&table, test.width, steps).Lines(screen.Style{})[:2]
		if diff := cmp.Diff(strings.Split(test.want, "|"), got); diff != "" {
			t.Errorf("%s, in %d columns (-want +got):\n%s", test.name, test.width, diff)
		}
	}
}

// What was left out comes back where a later step made room enough.
func TestNarrowedForNothing(t *testing.T) {
	t.Parallel()
	table := screen.Table{Head: []string{"A", "WIDE", "ERROR"}}
	table.Add("1", strings.Repeat("w", 40), "short")
	got := narrowed(&table, 20, []give{{"A", 0}, {"WIDE", 0}})
	if want := []string{"A", "ERROR"}; !slices.Equal(got.Head, want) {
		t.Errorf("shown %v, want %v", got.Head, want)
	}
}

// A hint is never cut, and its command is whole where a line has room for it.
func TestWrapped(t *testing.T) {
	t.Parallel()
	note := "2 tasks of webhook died: `drover dead ls --service webhook` lists (them)"
	for _, test := range []struct {
		name  string
		width int
		want  []string
	}{
		{"no terminal", 0, []string{note}},
		{"wide", 80, []string{note}},
		{"narrow", 50, []string{"2 tasks of webhook died:", "  `drover dead ls --service webhook` lists (them)"}},
		{"narrower than the command", 25, []string{"2 tasks of webhook", "  died: `drover dead ls", "  --service webhook`", "  lists (them)"}},
	} {
		if diff := cmp.Diff(test.want, wrappedTo(test.width, []string{note})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	if got, want := wrap("a `b", 80), []string{"a `b"}; !slices.Equal(got, want) {
		t.Errorf("wrap of a lone quote = %q, want %q", got, want)
	}
}
