package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Counts is how many tests, subtests included, ended how. A package that failed
// without a failing test, because it did not build or its process died, is one
// more failure.
type Counts struct {
	Passed, Failed int
}

// String is the closing line of a test run.
func (c Counts) String() string {
	return fmt.Sprintf("%d passed, %d failed", c.Passed, c.Failed)
}

// event is a line of `go test -json`; see `go doc cmd/test2json`.
type event struct {
	Action     string
	Package    string
	Test       string
	Output     string
	ImportPath string // of a build-output event
}

// test names a test within its package; the package itself has Name "".
type test struct{ Package, Name string }

// tallier keeps the output of a test until it is known whether anyone wants to
// read it.
type tallier struct {
	out    io.Writer
	counts Counts
	held   map[test][]string
	failed map[string]bool // packages in which a test failed
}

// count copies what matters of in to out and returns the counts. Lines that are
// not JSON, such as a compiler's, are copied as they are.
func count(in io.Reader, out io.Writer) (Counts, error) {
	t := &tallier{out: out, held: map[test][]string{}, failed: map[string]bool{}}
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			t.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return t.counts, fmt.Errorf("read test output: %w", err)
		}
	}
	if t.counts == (Counts{}) {
		fmt.Fprintln(out, "no test ran")
		t.counts.Failed++
	}
	return t.counts, nil
}

func (t *tallier) line(line []byte) {
	var e event
	if !bytes.HasPrefix(line, []byte("{")) || json.Unmarshal(line, &e) != nil {
		fmt.Fprintf(t.out, "%s", line)
		return
	}
	key := test{e.Package, e.Test}
	switch e.Action {
	case "output":
		if strings.HasPrefix(e.Output, "=== ") { // RUN, PAUSE, CONT, NAME: news of no test's end
			return
		}
		if e.Test == "" && summary(e.Output) {
			fmt.Fprint(t.out, e.Output)
			return
		}
		t.held[key] = append(t.held[key], e.Output)
	case "build-output":
		fmt.Fprint(t.out, e.Output)
	case "pass":
		if e.Test != "" {
			t.counts.Passed++
		}
		delete(t.held, key)
	case "fail":
		t.fail(key)
	case "skip":
		if e.Test == "" { // a package without test files
			return
		}
		t.fail(key)
		fmt.Fprintf(t.out, "    %s was skipped, which counts as failed\n", e.Test)
	}
}

// fail counts and prints a failed test, or a failed package that no test explains.
func (t *tallier) fail(key test) {
	if key.Name == "" {
		if !t.failed[key.Package] {
			t.counts.Failed++
		}
	} else {
		t.counts.Failed++
		t.failed[key.Package] = true
	}
	for _, s := range t.held[key] {
		fmt.Fprint(t.out, s)
	}
	delete(t.held, key)
}

// summary reports whether a package's line is the one that says how it ended.
func summary(line string) bool {
	return strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "FAIL\t")
}
