package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/supervise/screen"
)

func TestBlock(t *testing.T) {
	t.Parallel()
	change := streams.Change{
		Object: "stream TASKS_BULK", Action: streams.Refuse,
		Fields: []streams.Diff{{Field: "max bytes", From: "2 GiB", To: "1 GiB"}, {Field: "discard", From: "old", To: "new"}},
		Note:   "it holds 1.5 GiB, which is more than it would have room for",
		Do:     []string{"drover lanes --class bulk    # however long the line is, it is not cut"},
	}
	want := []string{
		"! refused stream TASKS_BULK",
		"    max bytes  2 GiB → 1 GiB",
		"    discard    old → new",
		"    it holds 1.5 GiB, which is more",
		"    than it would have room for",
		"        drover lanes --class bulk    # however long the line is, it is not cut",
		"",
	}
	if d := cmp.Diff(want, block(change, future, screen.Style{}, 36)); d != "" {
		t.Errorf("block (-want +got):\n%s", d)
	}
	change.Action, change.Fields, change.Note, change.Do = streams.Create, change.Fields[:1], "", nil
	change.Fields[0].To = strings.Repeat("x", 40)
	want = []string{"+ created stream TASKS_BULK", "    max bytes  2 GiB → xxxxxxxxxxxxx…", ""}
	if d := cmp.Diff(want, block(change, past, screen.Style{}, 37)); d != "" {
		t.Errorf("block (-want +got):\n%s", d)
	}
}
