package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every verb and every flag that the doctor tells people to use is there.
func TestRemedies(t *testing.T) {
	t.Parallel()
	known := map[string]string{} // help by verb
	for _, words := range verbs(t) {
		var out strings.Builder
		execute(t.Context(), append(slices.Clone(words), "--help"), strings.NewReader(""), &out, &out)
		known[strings.Join(words, " ")] = out.String()
	}
	files, err := filepath.Glob("../doctor/*.go")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`\bdrover ([a-z]+)(?: (ls|show|redrive|discard|plan|apply)\b)?`)
	flag := regexp.MustCompile(`--[a-z]+`)
	n := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			for _, at := range command.FindAllStringSubmatchIndex(line, -1) {
				n++
				verb := strings.TrimPrefix(line[at[0]:at[1]], "drover ")
				help, ok := known[verb]
				if !ok && verb != "resume" { // which comes with the pause that it ends
					t.Errorf("%s tells people to use drover %s, which is no verb", file, verb)
				}
				end := strings.IndexAny(line[at[1]:], "\"#`;") // of this command
				if verb == "run" || verb == "resume" || end < 0 {
					continue // the flags of run are the service's
				}
				for _, f := range flag.FindAllString(line[at[1]:at[1]+end], -1) {
					if !strings.Contains(help, f) {
						t.Errorf("%s tells people to use drover %s %s, which it does not have", file, verb, f)
					}
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("found %d commands in %v: this test looks in the wrong place", n, files)
	}
}
