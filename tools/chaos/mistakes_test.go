package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/tools/chaos"
)

const envMistake = "DROVER_MISTAKE"

// mistake is one that a worker could make, the scenario that provokes it, and the
// violation that the checker has to find then.
type mistake struct {
	name     string
	scenario string
	want     string
}

var mistakes = []mistake{
	{"ack before the move is stored", "retry_refuses", chaos.Lost},
	{"ack before the letter is stored", "dead_refuses", chaos.Lost},
	{"hop not incremented", "failures", chaos.Lost},
	{"move id from the attempt", "failures", chaos.Lost},
	{"attempt counted twice", "failures", chaos.AttemptSkipped},
	{"attempt not counted", "failures", chaos.AttemptRepeated},
	{"put-off burns an attempt", "failures", chaos.AttemptSkipped},
	{"history not kept", "failures", chaos.NoHistory},
	{"no time limit", "hang", chaos.OverTime},
	{"lease not extended", "long", chaos.LeaseWithout},
	{"lost lease settles", "stopped", chaos.AttemptSkipped},
	{"late task has a lease", "late", chaos.RanAfterDone},
	{"no look for an earlier move", "unheard", chaos.RanWhileWaiting},
	{"earlier move known by attempt", "unheard", chaos.RanWhileWaiting},
	{"drain acknowledges", "drain", chaos.Lost},
	{"death not counted", "poison", chaos.TooManyDeaths},
	{"body removed at a move", "body", chaos.WrongDeath},
}

// edit is a replacement in a source file of the library. The text must be in it
// exactly once; what replaces it makes a mistake when it is asked to.
type edit struct{ file, old, new string }

var edits = []edit{
	{
		"shared/worker/settle.go", `	msg := l.moved(d, v, time.Now())
`, `	msg := l.moved(d, v, time.Now())
	if mistaken("ack before the move is stored") && v.outcome == again || mistaken("ack before the letter is stored") && v.outcome == dead {
		l.confirm(d)
	}
`,
	},
	{
		"shared/worker/settle.go", `	if l.holds(d) {
		switch`, `	if l.holds(d) || mistaken("lost lease settles") {
		switch`,
	},
	{
		"shared/worker/settle.go", `	if heard {
		l.forget`, `	if heard || mistaken("body removed at a move") && len(ref) > 0 {
		l.forget`,
	},
	{
		"shared/worker/settle.go", `	st.Hop++
`, `	if !mistaken("hop not incremented") {
		st.Hop++
	}
`,
	},
	{
		"shared/worker/settle.go", `		st.Attempt++
`, `		switch {
		case mistaken("attempt counted twice"):
			st.Attempt += 2
		case !mistaken("attempt not counted"):
			st.Attempt++
		}
`,
	},
	{
		"shared/worker/settle.go", `	case task.PutOff, task.Circuit, task.Cap, task.Limited:
`, `	case task.PutOff, task.Circuit, task.Cap, task.Limited:
		if mistaken("put-off burns an attempt") {
			st.Attempt++
		}
`,
	},
	{
		"shared/worker/attempt.go", `	end := start.Add(limit)
`, `	if mistaken("no time limit") {
		limit = time.Hour
	}
	end := start.Add(limit)
`,
	},
	{
		"shared/worker/attempt.go", `; moved || !ok {
`, `; !mistaken("no look for an earlier move") && (moved || !ok) {
`,
	},
	{
		"shared/worker/attempt.go", `		return nil, verdict{outcome: again, reason: task.GaveBack}
`, `		if mistaken("drain acknowledges") {
			return nil, verdict{outcome: superseded}
		}
		return nil, verdict{outcome: again, reason: task.GaveBack}
`,
	},
	{
		"shared/worker/lane.go", `{ return recorded + d.delivered - 1 }
`, `{
	if mistaken("death not counted") {
		return recorded
	}
	return recorded + d.delivered - 1
}
`,
	},
	{
		"shared/worker/lease.go", `		case now.Sub(d.extended) >=`, `		case !mistaken("lease not extended") && now.Sub(d.extended) >=`,
	},
	{
		"shared/worker/fetch.go", `	if !p.doubt.IsZero() {
`, `	if !p.doubt.IsZero() && !mistaken("late task has a lease") {
`,
	},
	{
		"shared/task/state.go", `func (s *State) Fail(f Failure) {
`, `func (s *State) Fail(f Failure) {
	if mistaken("history not kept") {
		return
	}
`,
	},
	{
		"shared/task/state.go", `func (s *State) MoveID() string {
`, `func (s *State) MoveID() string {
	if mistaken("move id from the attempt") {
		return string(s.Subject.Class) + "." + s.Subject.Kind() + ":" + key(s.ID, s.Generation) + ":" + strconv.Itoa(s.Attempt)
	}
`,
	},
	{
		"shared/task/state.go", `func (s *State) Later(t *State) bool {
`, `func (s *State) Later(t *State) bool {
	if mistaken("earlier move known by attempt") {
		return s.Generation > t.Generation || s.Generation == t.Generation && s.Attempt > t.Attempt
	}
`,
	},
}

// The checker can fail: a worker that makes a mistake on purpose is caught by the
// violation that follows from it, in the scenario that TestScenario passes without.
// The mistakes are not in the source: they are put into a copy of it that one test
// binary is built from.
func TestMistakes(t *testing.T) {
	t.Parallel()
	bin := mistakenBinary(t)
	const atOnce = 6 // they wait for leases and timers most of the time
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	for _, m := range mistakes {
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, bin, "-test.run", "^TestScenario$/^"+m.scenario+"$", "-test.v")
			cmd.Env = append(os.Environ(), envMistake+"="+m.name, envWant+"="+m.want)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS: TestScenario/"+m.scenario) {
				t.Errorf("%s: %v\n%s", m.name, err, out)
			}
		})
	}
	running.Wait()
}

// mistakenBinary builds this package's tests with all mistakes in them.
func mistakenBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := mistakenSources(root)
	if err != nil {
		t.Fatal(err)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	n := 0
	for file, text := range sources {
		n++
		at := filepath.Join(dir, fmt.Sprintf("%d.go", n))
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(root, file)] = at
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "mistaken.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", bin, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with mistakes: %v\n%s", err, out)
	}
	return bin
}

// mistakenSources returns the files that have mistakes in them, by path from root.
// An error says that an edit does not fit the source any more.
func mistakenSources(root string) (map[string]string, error) {
	out := map[string]string{}
	for _, e := range edits {
		text, ok := out[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s has this %d times, want once: the mistake has to be fitted to the source anew:\n%s", e.file, n, e.old)
		}
		out[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	for _, m := range mistakes {
		call := fmt.Sprintf("mistaken(%q)", m.name)
		if !slices.ContainsFunc(edits, func(e edit) bool { return strings.Contains(e.new, call) }) {
			return nil, fmt.Errorf("no edit makes the mistake %q", m.name)
		}
	}
	for dir, pkg := range map[string]string{"shared/worker": "worker", "shared/task": "task"} {
		out[dir+"/mistaken.go"] = "package " + pkg + "\n\nimport \"os\"\n\nvar mistake = os.Getenv(\"" + envMistake +
			"\")\n\nfunc mistaken(name string) bool { return mistake == name }\n"
	}
	return out, nil
}
