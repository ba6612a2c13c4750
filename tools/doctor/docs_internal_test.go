package doctor

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

const operationsPage = "../../docs/operations.md"

// inRunbook is the name of a finding as a row or a heading of the runbook begins
// with it: "#### `lane-nobody` …" and "| `clock` | …".
var inRunbook = regexp.MustCompile("(?m)^(?:#+|\\|) `([a-z0-9-]+)`")

// anyFinding is what looks like the name of a finding wherever it is written.
var anyFinding = regexp.MustCompile("`((?:account|broker|lane|stream|topology|replica|body|crash|tasks|timers|slots|process)-[a-z-]+)`")

// The runbook has each finding once, under its severity, and no other; and what
// the rest of the page calls a finding is one.
func TestRunbook(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(operationsPage)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range rules {
		names = append(names, r.name)
		part := section(string(text), r.severity)
		n := 0
		for _, m := range inRunbook.FindAllStringSubmatch(part, -1) {
			if m[1] == r.name {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s has %s %d times under %q, want once", operationsPage, r.name, n, r.severity)
		}
	}
	for _, s := range severities {
		for _, m := range inRunbook.FindAllStringSubmatch(section(string(text), s), -1) {
			if !slices.Contains(names, m[1]) {
				t.Errorf("%s has %s under %q, which is no finding", operationsPage, m[1], s)
			}
		}
	}
	for _, m := range anyFinding.FindAllStringSubmatch(string(text), -1) {
		if !slices.Contains(names, m[1]) {
			t.Errorf("%s names %s, which is no finding", operationsPage, m[1])
		}
	}
}

// section is the part of the runbook for findings of one severity.
func section(page string, s Severity) string {
	m := regexp.MustCompile(`(?ms)^### ` + string(s) + `$(.*?)(?:^##? |^### |\z)`).FindStringSubmatch(page)
	if m == nil {
		return ""
	}
	return m[1]
}
