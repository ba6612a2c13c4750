package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/bench"
	"github.com/droverhq/drover/tools/demo"
	"github.com/droverhq/drover/tools/doctor"
	"github.com/droverhq/drover/tools/keyring"
	"github.com/droverhq/drover/tools/supervise"
)

const (
	commandsPage   = "../../docs/commands.md"
	operationsPage = "../../docs/operations.md"
)

// What the help and the page show as an example is accepted as it stands.
func TestExamples(t *testing.T) {
	t.Parallel()
	texts := map[string]string{}
	for _, page := range []string{commandsPage, operationsPage} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		texts[page] = string(text)
	}
	for _, words := range append(verbs(t), nil) {
		var out strings.Builder
		execute(t.Context(), append(words, "--help"), strings.NewReader(""), &out, &out)
		texts["drover "+strings.Join(words, " ")+" --help"] = out.String()
	}
	for where, text := range texts {
		n := 0
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "    drover ") {
				continue
			}
			n++
			words, err := split(strings.TrimSpace(line))
			if err != nil {
				t.Errorf("%s: %s: %v", where, line, err)
				continue
			}
			if err := accepts(t, words[1:]); err != nil {
				t.Errorf("%s: %s\n%v", where, line, err)
			}
		}
		if n == 0 && where != "drover  --help" {
			t.Errorf("%s shows no example", where)
		}
	}
}

// accepts parses one invocation. Files that it names need not exist.
func accepts(t *testing.T, words []string) error {
	t.Helper()
	exited := false
	p, err := newParser(new(cli), new(strings.Builder), new(strings.Builder), &exited,
		kong.NamedMapper("existingfile", kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
			var name string
			err := ctx.Scan.PopValueInto("file", &name)
			target.SetString(name)
			return err
		})))
	if err != nil {
		return err
	}
	_, err = p.Parse(words)
	return err
}

// word is one word of a shell, quoted in single quotes as a whole or in part.
var word = regexp.MustCompile(`^(?:[^\s'|#"$\\]|'[^']*')+`)

// split does what a shell would with a command, up to a comment or a pipe.
func split(line string) ([]string, error) {
	var words []string
	for line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != '|'; line = strings.TrimSpace(line) {
		w := word.FindString(line)
		if w == "" {
			return nil, strconv.ErrSyntax
		}
		words = append(words, strings.ReplaceAll(w, "'", ""))
		line = line[len(w):]
	}
	return words, nil
}

// The page lists exactly the keys that --json writes, in their order, and in
// italics those that may be absent.
func TestKeys(t *testing.T) {
	t.Parallel()
	rows := tableOf(t, "| verb | keys |")
	for verb, v := range map[string]any{
		"`enqueue`":         enqueued{},
		"`lanes`":           laneState{},
		"`ps`":              fleet.Process{},
		"`pause`, `resume`": fleet.Record{},
		"`dead ls`":         letter{},
		"`dead show`":       story{},
		"`dead redrive`, `dead edit`, `dead discard`": moved{},
		"`dead redrive`, `dead edit` of many: stages": stage{},
		"`dead groups`":             group{},
		"`audit ls`":                audit.Entry{},
		"`caps`":                    capState{},
		"`caps`: each of `holders`": capHolder{},
		"`limits`":                  limitState{},
		"`breakers ls`, `breakers open`, `breakers close`": circuit.Entry{},
		"`streams plan`, `streams apply`":                  streams.Change{},
		"`keys`":                                           keyring.Key{},
		"`version`":                                        versions{},
		"`tasks ls`":                                       taskState{},
		"`tasks show`":                                     taskStory{},
		"`doctor`":                                         doctor.Report{},
		"`doctor`: each of `findings`":                     doctor.Finding{},
		"`doctor`: each of `checks`":                       doctor.Check{},
		"`up`: each of `processes`":                        supervise.Process{},
		"`up`: each of `lanes`":                            supervise.Share{},
		"`demo`":                                           demo.Report{},
		"`bench`":                                          bench.Report{},
	} {
		got, ok := rows[verb]
		for _, of := range []string{"`dead ls`", "`tasks ls`"} {
			if rest, inherits := strings.CutPrefix(got, "those of "+of+", "); inherits {
				got = rows[of] + " " + rest
			}
		}
		if want := strings.Join(keys(reflect.TypeOf(v)), " "); !ok || got != want {
			t.Errorf("%s, keys of %s (-written +documented):\n%s", commandsPage, verb, cmp.Diff(want, got))
		}
	}
}

func keys(t reflect.Type) []string {
	var out []string
	for f := range t.Fields() {
		if f.Anonymous {
			out = append(out, keys(f.Type)...)
			continue
		}
		name, omit, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if omit != "" {
			name = "*" + name + "*"
		}
		out = append(out, name)
	}
	return out
}

// The page and `drover help exit-codes` say the same.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	help := map[string]string{}
	code := ""
	for line := range strings.Lines(exitCodes) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(line, "    ") {
			if _, err := strconv.Atoi(f[0]); err == nil {
				code, f = f[0], f[1:]
			}
			help[code] = strings.TrimSpace(help[code] + " " + strings.Join(f, " "))
		}
	}
	page := tableOf(t, "| code | meaning |")
	plain := func(m map[string]string) map[string]string {
		out := map[string]string{}
		for k, v := range m {
			out[k] = strings.ToLower(strings.NewReplacer("`", "", `"`, "", ";", "", ".", "").Replace(v))
		}
		return out
	}
	if diff := cmp.Diff(plain(help), plain(page)); diff != "" {
		t.Errorf("exit codes (-help +%s):\n%s", commandsPage, diff)
	}
	for _, c := range []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRefused, exitUnreachable, exitUnknown, exitChanges, exitFindings, exitInterrupted} {
		if _, ok := help[strconv.Itoa(c)]; !ok {
			t.Errorf("exit code %d is not explained", c)
		}
	}
}

// tableOf returns the rows of a table of two columns on the page.
func tableOf(t *testing.T, head string) map[string]string {
	t.Helper()
	page, err := os.ReadFile(commandsPage)
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(string(page)))
	at := slices.Index(lines, head+"\n")
	rows := map[string]string{}
	for _, line := range lines[max(0, at+2):] {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if at < 0 || len(cells) != 4 {
			break
		}
		rows[strings.TrimSpace(cells[1])] = strings.TrimSpace(cells[2])
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table %q", commandsPage, head)
	}
	return rows
}
