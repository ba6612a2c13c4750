package demo_test

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/droverhq/drover/services/cmd/catalog"
	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/demo"
	"github.com/droverhq/drover/tools/supervise"
)

func TestMain(m *testing.M) {
	natstest.Main(m, map[string]func() int{"service": serviceMain})
}

// serviceMain is what the demo starts: `<test binary> run <service>`.
func serviceMain() int {
	supervise.EndWithParent()
	s := demo.Service()
	if name := os.Args[2]; name != s.Name {
		s, _ = catalog.Find(name)
	}
	return service.Exec(context.Background(), s, os.Args[3:], os.Stdout, os.Stderr)
}

// The whole demo, a tenth of its size.
func TestDemo(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	kept := false
	r, err := demo.Run(t.Context(), demo.Options{
		Command: []string{exe, "run"}, Env: []string{"DROVER_TEST_ROLE=service"}, Divide: 10, Stdout: &shown,
		Keep: func(_ context.Context, r *demo.Report) { kept = r.OK },
	})
	if err != nil {
		t.Fatalf("Run() = %v\n%s", err, &shown)
	}
	t.Logf("shown:\n%s", &shown)
	if !r.OK || len(r.Problems) > 0 || !kept {
		t.Errorf("problems: %q", r.Problems)
	}
	want := []demo.Tally{
		{Part: "mail", Published: 6, Done: 5, Dead: map[task.Reason]int{task.Permanent: 1}},
		{Part: "bulk", Published: 200, Done: 200},
		{Part: "urgent"},
		{Part: "webhooks", Published: 10, Done: 10},
		{Part: "invoice", Published: 1, Done: 1},
		{Part: "work", Published: 4, Done: 4},
		{Part: "crash", Published: 1, Dead: map[task.Reason]int{task.CrashLoop: 1}},
		{Part: "photos", Published: 4, Done: 3, Dead: map[task.Reason]int{task.Failed: 1}},
	}
	dead := 3
	if runtime.GOOS != "linux" { // where nothing enforces a cap of memory
		want[len(want)-1] = demo.Tally{Part: "photos", Published: 4, Done: 4}
		dead = 2
	}
	for i := range r.Tasks { // what depends on how fast the machine is
		r.Tasks[i].Retries, r.Tasks[i].Parked, r.Tasks[i].Twice = 0, 0, 0
		if r.Tasks[i].Part == "urgent" {
			if u := r.Tasks[i]; u.Published == 0 || u.Done != u.Published {
				t.Errorf("urgent: %d of %d done", u.Done, u.Published)
			}
			r.Tasks[i].Published, r.Tasks[i].Done = 0, 0
		}
	}
	if d := cmp.Diff(want, r.Tasks, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("tasks (-want +got):\n%s", d)
	}
	if n := r.Total.Done + dead; n != r.Total.Published || len(r.Dead) != dead {
		t.Errorf("%d published, %d done and %d dead", r.Total.Published, r.Total.Done, len(r.Dead))
	}
	if len(r.Redriven) != 1 || r.Redriven[0].Reason != task.Failed || r.Redriven[0].Generation != 1 {
		t.Errorf("redriven = %+v, want the invoice, which had failed", r.Redriven)
	}
	if b := r.Breaker; b.Opened == 0 || b.Tasks == 0 || b.Tasks > 10 || b.Parked < b.Tasks || r.Moves["circuit"] != b.Parked {
		t.Errorf("breaker = %+v and moves %v, want deliveries that waited for it", b, r.Moves)
	}
	if c := r.Crash; c.Processes < 1 || c.Children < 1 || c.Processes+c.Children > c.Limit || c.Limit != 4 {
		t.Errorf("crash loop = %+v, want deaths of processes and of a child, at most 4", c)
	}
	if p := r.Photos; p.OOM != 2*(dead-2) && !raced || p.Processes != 0 {
		t.Errorf("photos = %+v, want 2 ends at the cap and no process", p)
	}
	var classes []string
	for _, w := range r.Waits {
		classes = append(classes, w.Of)
		if w.P50 > w.P99 || w.P99 > w.Max || w.Max > time.Minute {
			t.Errorf("wait = %+v", w)
		}
	}
	if d := cmp.Diff([]string{"urgent", "default", "slow", "bulk"}, classes); d != "" {
		t.Errorf("classes of waits (-want +got):\n%s", d)
	}
	for _, text := range []string{"ready in ", "the killer runs alone in a child", "the receiver is left alone for ", "the receiver works again", "550 5.1.1 no such user here", "ok: every task is accounted for"} {
		if !strings.Contains(shown.String(), text) {
			t.Errorf("what was shown does not say %q", text)
		}
	}
}

func TestDemoThatCannotStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // enough to apply the fleet
	defer cancel()
	r, err := demo.Run(ctx, demo.Options{Command: []string{"/bin/false"}})
	if err == nil || r != nil || !strings.Contains(err.Error(), "start the demo: wait for the fleet: email-1 is not ready") {
		t.Errorf("Run() = %v, %v, want an error that names a process", r, err)
	}
}
