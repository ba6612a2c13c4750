//go:build e2e

package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDemo runs `drover demo` as README says, with its spans going to a Jaeger.
func TestDemo(t *testing.T) {
	t.Parallel()
	j := startJaeger(t)
	var report struct {
		OK       bool
		Problems []string
		Dead     []struct{ ID, Name, Reason string }
		Redriven []struct{ ID, Name string }
	}
	out := execute(t, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir(), soon}, "",
		filepath.Join(own, "drover"), "demo", "--json", "--otlp", j.otlp)
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("report of the demo: %v\n%s", err, out)
	}
	if !report.OK || len(report.Problems) > 0 {
		t.Errorf("the demo says ok %v, problems %v", report.OK, report.Problems)
	}
	services := eventually(t, j, "/api/services", nil, func(names []string) bool { return len(names) >= 4 })
	slices.Sort(services)
	if d := cmp.Diff([]string{"demo", "drover", "email", "webhook"}, services); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}

	died := map[string]string{} // id of a task by why it died
	for _, l := range report.Dead {
		died[l.Reason] = l.ID
	}
	lives := []struct {
		name, service, id string
		spans             int
		want              []string
	}{
		{"a mail to nobody", "email", died["permanent"], 3, []string{`
drover: publish email.send
  email: process email.send, attempt 1, generation 0, verdict dead, reason permanent, type permanent
    email: dead email.send, reason permanent
`}},
		// A process that is killed sends no span. The first that is there is of the
		// process that got the task after two deaths.
		{"a task that kills its process", "demo", died["crash-loop"], 5, []string{`
drover: publish demo.crash
  demo: process demo.crash, attempt 1, generation 0, verdict moved, reason suspect, type _OTHER
    demo: retry demo.crash, reason suspect
  demo: process demo.crash, attempt 1, generation 0, verdict dead, reason crash-loop, type crash-loop, follows attempt 1
    demo: dead demo.crash, reason crash-loop
`}},
		{"a task that takes more memory than it may", "demo", died["failed"], 5, []string{`
drover: publish demo.photo
  demo: process demo.photo, attempt 1, generation 0, verdict moved, reason retry, type oom
    demo: retry demo.photo, reason retry
  demo: process demo.photo, attempt 2, generation 0, verdict dead, reason failed, type oom, follows attempt 1
    demo: dead demo.photo, reason failed
`}},
	}
	if len(report.Redriven) != 1 {
		t.Errorf("the demo says that it redrove %v, want one task", report.Redriven)
	}
	for _, r := range report.Redriven {
		lives = append(lives, struct {
			name, service, id string
			spans             int
			want              []string
		}{r.Name, "webhook", r.ID, 13, []string{`
drover: publish webhook.deliver
  webhook: process webhook.deliver, attempt 1, generation 0, verdict moved, reason retry, type _OTHER
    webhook: retry webhook.deliver, reason retry
  webhook: process webhook.deliver, attempt 2, generation 0, verdict moved, reason retry, type _OTHER, follows attempt 1
    webhook: retry webhook.deliver, reason retry
  webhook: process webhook.deliver, attempt 3, generation 0, verdict moved, reason retry, type _OTHER, follows attempt 2
    webhook: retry webhook.deliver, reason retry
  webhook: process webhook.deliver, attempt 4, generation 0, verdict moved, reason retry, type _OTHER, follows attempt 3
    webhook: retry webhook.deliver, reason retry
  webhook: process webhook.deliver, attempt 5, generation 0, verdict dead, reason failed, type _OTHER, follows attempt 4
    webhook: dead webhook.deliver, reason failed
`, `
drover: redrive webhook.deliver, generation 1, reason failed, follows publish webhook.deliver of another trace, follows attempt 5 of another trace
  webhook: process webhook.deliver, attempt 1, generation 1, verdict done
`}})
	}
	for _, life := range lives {
		found := j.search(t, life.service, life.id, len(life.want), life.spans)
		var got []string
		for i := range found {
			got = append(got, found[i].tree(found[:i]...))
		}
		if d := cmp.Diff(life.want, got); d != "" {
			t.Errorf("traces of %s, %s (-want +got):\n%s", life.name, life.id, d)
		}
	}
}
