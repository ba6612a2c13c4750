// Package docs_test holds the documents to the tree: what they name is there.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// link is [text](target), as far as the target is in this repository.
var link = regexp.MustCompile(`\[([^\]]+)\]\(([^)#:]+)\)`)

// goName is the name of a function that go test runs.
var goName = regexp.MustCompile(`^(Test|Benchmark|Example|Fuzz)[A-Z]\w*$`)

// Every link leads to something, and one whose text is the name of a test leads
// to the folder that has it.
func TestLinks(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	records, err := filepath.Glob("adr/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range append(files, records...) {
		for _, m := range link.FindAllStringSubmatch(read(t, file), -1) {
			name, target := m[1], filepath.Join(filepath.Dir(file), m[2])
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: [%s] leads to %s, which is not there", file, name, m[2])
				continue
			}
			if !goName.MatchString(name) {
				continue
			}
			found++
			if !declares(t, target, name) {
				t.Errorf("%s: no test file in %s has a func %s", file, target, name)
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d links lead to tests: this test no longer reads what is written", found)
	}
}

// declares reports whether a test file in dir has a function of that name.
func declares(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.Contains(read(t, f), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}

const scenarios = 35

// Every scenario is there, in order, and either shown or honestly to come.
func TestScenarios(t *testing.T) {
	t.Parallel()
	next := 1
	for line := range strings.Lines(read(t, "scenarios.md")) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		n, err := strconv.Atoi(strings.TrimSpace(cells[0]))
		if len(cells) != 3 || err != nil {
			continue // no row, or the head of the table
		}
		if n != next {
			t.Errorf("scenario %d comes where %d should", n, next)
		}
		next = n + 1
		if where := cells[2]; !link.MatchString(where) && !strings.Contains(where, "To come: ") {
			t.Errorf("scenario %d is neither shown nor to come: %s", n, where)
		}
	}
	if next != scenarios+1 {
		t.Errorf("the last scenario is %d, want %d", next-1, scenarios)
	}
}

// A decision is one page with all its parts, numbered without a gap, and in the
// index under its title.
func TestDecisions(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("adr/[0-9]*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d decisions, error %v", len(files), err)
	}
	index := read(t, "adr/README.md")
	for i, file := range files {
		text := read(t, file)
		number := filepath.Base(file)[:4]
		if n, err := strconv.Atoi(number); err != nil || n != i+1 {
			t.Errorf("%s comes where number %d should", file, i+1)
		}
		first, _, _ := strings.Cut(text, "\n")
		title, ok := strings.CutPrefix(first, "# "+number+" · ")
		if !ok {
			t.Errorf("%s begins with %q, want # %s · and a title", file, first, number)
		}
		if want := "[" + title + "](" + filepath.Base(file) + ")"; !strings.Contains(index, want) {
			t.Errorf("adr/README.md has no %s", want)
		}
		if !regexp.MustCompile(`(?m)^(Accepted|Superseded by \d{4}) · \d{4}-\d\d-\d\d$`).MatchString(text) {
			t.Errorf("%s has no line with status and date", file)
		}
		for _, part := range []struct {
			name string
			most int // lines
		}{{"Context", 5}, {"Decision", 10}, {"Consequences", 10}, {"Evidence", 10}} {
			_, rest, ok := strings.Cut(text, "\n## "+part.name+"\n")
			body, _, _ := strings.Cut(rest, "\n## ")
			if lines := len(strings.Split(strings.TrimSpace(body), "\n")); !ok || strings.TrimSpace(body) == "" || lines > part.most {
				t.Errorf("%s: %s has %d lines (%t), want 1 to %d", file, part.name, lines, ok, part.most)
			}
		}
	}
}

var (
	replaces = regexp.MustCompile(`(?m)^(?:replace)?\s*(\S+)(?: \S+)? => (\S+)`)
	uses     = regexp.MustCompile(`(?s)use \((.*?)\)`)
)

// What 0002 promises: the module that strangers import replaces nothing, and the
// others replace modules of this repository only.
func TestReplacements(t *testing.T) {
	t.Parallel()
	m := uses.FindStringSubmatch(read(t, "../go.work"))
	if m == nil {
		t.Fatal("go.work uses no modules")
	}
	for dir := range strings.FieldsSeq(m[1]) {
		for _, r := range replaces.FindAllStringSubmatch(read(t, filepath.Join("..", dir, "go.mod")), -1) {
			switch {
			case dir == ".":
				t.Errorf("go.mod replaces %s: who imports the module would not get that", r[1])
			case !strings.HasPrefix(r[2], "../"):
				t.Errorf("%s/go.mod replaces %s by %s, which is outside of the repository", dir, r[1], r[2])
			}
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
