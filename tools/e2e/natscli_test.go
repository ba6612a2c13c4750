//go:build e2e

package e2e_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/droverhq/drover/shared/task"
)

// TestNATS looks at the built-in fleet with the nats command, as testdata/nats.txtar
// tells it.
func TestNATS(t *testing.T) {
	t.Parallel()
	require(t, "nats")
	f := newFleet(t, "")
	end, _ := alive.Deadline()
	testscript.Run(t, testscript.Params{
		Files:    []string{filepath.Join("testdata", "nats.txtar")},
		Deadline: end,
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, f.env...)
			for name, args := range map[string]map[string]any{
				"empty":  {},
				"busy":   {"to": "busy@example.com", "subject": "Hi", "text": "It works."}, // the mail server puts it off
				"bounce": {"to": "bounce@example.com", "subject": "Hi", "text": "It works."},
			} {
				body, err := task.Marshal(args)
				if err == nil {
					err = os.WriteFile(filepath.Join(env.WorkDir, name), body, 0o600)
				}
				if err != nil {
					return err
				}
			}
			for _, doc := range []string{"README.md", filepath.Join("docs", "wire.md")} {
				name, _, _ := strings.Cut(strings.ToLower(filepath.Base(doc)), ".")
				text, err := os.ReadFile(filepath.Join("..", "..", doc))
				if err == nil {
					err = os.WriteFile(filepath.Join(env.WorkDir, name+".sh"), []byte(commands(string(text), "nats")), 0o600)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// mail SUBJECT: the next mail that is sent has this subject.
			"mail": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: mail SUBJECT")
				}
				m, err := receive(f.mails)
				ts.Check(err)
				if m.Subject != args[0] {
					ts.Fatalf("a mail came with subject %q, want %q", m.Subject, args[0])
				}
			},
			// holds STREAM N: the stream has so many messages, now or soon.
			"holds": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 2 {
					ts.Fatalf("usage: holds STREAM N")
				}
				n, err := strconv.ParseUint(args[1], 10, 64)
				ts.Check(err)
				ts.Check(f.holds(args[0], n))
			},
		},
	})
}

// commands are the lines of a document that run program, as a shell script: those
// of its indented blocks, with the lines before that are piped into them.
func commands(doc, program string) string {
	script, begun := "set -e\n", ""
	for line := range strings.Lines(doc) {
		text, indented := strings.CutPrefix(line, "    ")
		if !indented {
			begun = ""
			continue
		}
		begun += text
		if strings.HasSuffix(strings.TrimSpace(text), "|") {
			continue
		}
		if strings.HasPrefix(strings.TrimSpace(text), program+" ") {
			script += begun
		}
		begun = ""
	}
	return script
}
