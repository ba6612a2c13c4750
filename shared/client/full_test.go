package client_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// Four producers leak tasks into bulk, which has room for 1 MiB, while urgent
// tasks come and go. The producers get an error that says how full the class is,
// the urgent tasks do not wait, and every task that was confirmed is there, once.
// When workers come, the producers that wait go on by themselves.
func TestFullClassPushesBack(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		fleet(t, js, func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 })
		var mu sync.Mutex
		var confirmed []string // of bulk
		var refused, slowest int
		produce := func(wg *sync.WaitGroup, n int, opts ...client.PublishOption) {
			for range 4 {
				wg.Go(func() {
					c := newClient(t, js)
					for range n {
						rc, err := c.Publish(t.Context(), Send{Text: noise(30 << 10)}, append(opts, client.Class(task.Bulk))...)
						mu.Lock()
						if err == nil {
							confirmed = append(confirmed, rc.ID)
						} else {
							refused++
							if e := full(t, err); e.Stream != "TASKS_BULK" || e.MaxBytes != 1<<20 || e.Bytes < 1<<20-40<<10 || e.RetryAfter <= 0 {
								t.Errorf("refusal %+v, want how full the class is and when to try again", *e)
							}
						}
						mu.Unlock()
						time.Sleep(20 * time.Millisecond)
					}
				})
			}
		}
		urgent := remove(t, js, task.Urgent, 400, 0, time.Millisecond)
		var wg sync.WaitGroup
		produce(&wg, 50)
		wg.Go(func() {
			c := newClient(t, js)
			for range 400 {
				start := time.Now()
				if _, err := c.Publish(t.Context(), Reset{}); err != nil {
					t.Errorf("publish of an urgent task = %v", err)
				}
				slowest = max(slowest, int(time.Since(start)))
				time.Sleep(5 * time.Millisecond)
			}
		})
		wg.Wait()
		if n := len(urgent()); n != 400 || slowest > int(100*time.Millisecond) {
			t.Errorf("%d of 400 urgent tasks were worked, the slowest publish took %v, want all, and none to wait", n, time.Duration(slowest))
		}
		if held := stored(t, js, "TASKS_BULK"); held != uint64(len(confirmed)) || held < 40 || held > 50 || refused != 200-len(confirmed) {
			t.Errorf("bulk holds %d tasks, %d are confirmed and %d refused, want it full of what was confirmed", held, len(confirmed), refused)
		}

		// Workers come, and what waits for room gets it.
		before := refused
		worked := remove(t, js, task.Bulk, len(confirmed)+40, 5*time.Second, 50*time.Millisecond)
		produce(&wg, 10, client.WaitForRoom(time.Minute))
		wg.Wait()
		if refused != before {
			t.Errorf("%d that wait for room were refused, want none", refused-before)
		}
		got := worked()
		slices.Sort(got)
		slices.Sort(confirmed)
		if d := cmp.Diff(confirmed, got); d != "" {
			t.Errorf("confirmed tasks that were worked, once each (-want +got):\n%s", d)
		}
	})
}

// Who publishes under the id of a refused task publishes that task.
func TestFullThenAgain(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	holds(t, js, 1)
	c := newClient(t, js)
	fill(t, c)
	rc, err := c.Publish(t.Context(), Send{})
	if full(t, err); rc.ID == "" {
		t.Fatalf("receipt of a refused task = %+v, want its id", rc)
	}
	s, err := js.Stream(t.Context(), "TASKS_DEFAULT")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := c.Publish(t.Context(), Send{}, client.ID(rc.ID))
	if err != nil || again.ID != rc.ID || again.Duplicate {
		t.Errorf("Publish again = %+v, %v, want it stored", again, err)
	}
	if _, err := c.Publish(t.Context(), Send{}); !errors.Is(err, client.ErrFull) {
		t.Errorf("Publish = %v, want ErrFull", err)
	}
}
