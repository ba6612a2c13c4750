package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// holds makes the streams of a fleet that hold n tasks each.
func holds(tb testing.TB, js jetstream.JetStream, n int64) {
	tb.Helper()
	fleet(tb, js, func(c *jetstream.StreamConfig) { c.MaxMsgs = n })
}

// fill publishes to the default class until it is full, and returns the refusal.
func fill(tb testing.TB, c *client.Client) *client.FullError {
	tb.Helper()
	for {
		if _, err := c.Publish(tb.Context(), Send{}); err != nil {
			return full(tb, err)
		}
	}
}

func full(tb testing.TB, err error) *client.FullError {
	tb.Helper()
	e, ok := errors.AsType[*client.FullError](err)
	if !ok || !errors.Is(err, client.ErrFull) || errors.Is(err, client.ErrUnknown) {
		tb.Fatalf("publish to a full class = %v, want a FullError and nothing unknown", err)
	}
	return e
}

// remove takes n tasks from the default class, as workers do, every so often, in
// the background until it has them or the test ends.
func remove(tb testing.TB, js jetstream.JetStream, class task.Class, n int, after, every time.Duration) (wait func() []string) {
	tb.Helper()
	c, err := js.CreateOrUpdateConsumer(tb.Context(), class.Stream(), jetstream.ConsumerConfig{Durable: "email", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	var ids []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for wait := after; len(ids) < n; wait = every {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			fctx, cancel := context.WithTimeout(ctx, time.Second)
			m, err := c.Next(jetstream.FetchContext(fctx))
			cancel()
			if err != nil {
				continue
			}
			if err := m.DoubleAck(ctx); err == nil {
				ids = append(ids, m.Headers().Get(task.HeaderMsgID))
			}
		}
	})
	tb.Cleanup(func() { cancel(); wg.Wait() })
	return func() []string { wg.Wait(); return ids }
}

func TestFullSaysHowFull(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js, func(c *jetstream.StreamConfig) { c.MaxMsgs, c.MaxBytes = 3, 1<<20 })
	e := fill(t, newClient(t, js))
	if e.Bytes == 0 {
		t.Errorf("bytes = 0, want what 3 tasks take")
	}
	want := client.FullError{
		Stream: "TASKS_DEFAULT", Reason: "maximum messages exceeded",
		Messages: 3, MaxMessages: 3, Bytes: e.Bytes, MaxBytes: 1 << 20, RetryAfter: time.Second,
	}
	if d := cmp.Diff(want, *e); d != "" {
		t.Errorf("refusal (-want +got):\n%s", d)
	}
	text := fmt.Sprintf("the stream is full: maximum messages exceeded: TASKS_DEFAULT holds 3 of 3 tasks, %d B of 1.0 MiB; try again in 1s", e.Bytes)
	if e.Error() != text {
		t.Errorf("it says %q, want %q", e, text)
	}
}

// The wait that is suggested goes by what is worked off, however fast others fill
// the room again.
func TestFullSuggestsByDrainRate(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		holds(t, js, 20)
		c := newClient(t, js)
		fill(t, c)
		time.Sleep(2 * time.Second)
		if e := fill(t, c); e.Over < 2*time.Second || e.Rate != 0 || e.RetryAfter != 10*time.Second || !strings.Contains(e.Error(), "none was worked off in 2s") {
			t.Errorf("while nothing is worked off: %+v: %v, want 10 s", *e, e)
		}
		remove(t, js, task.Default, 1000, 0, 500*time.Millisecond)
		time.Sleep(1100 * time.Millisecond)
		fill(t, c)
		time.Sleep(5 * time.Second)
		e := fill(t, c)
		if e.Rate < 1.8 || e.Rate > 2.2 || e.RetryAfter < 450*time.Millisecond || e.RetryAfter > 600*time.Millisecond {
			t.Errorf("while 2 a second are worked off: %+v, want about 500 ms", *e)
		}
		if e.Messages != 20 {
			t.Errorf("messages = %d, want 20", e.Messages)
		}
	})
}

// Thousands that are refused at once ask how full it is once.
func TestFullAsksOnceASecond(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		holds(t, js, 3)
		c := newClient(t, js)
		asked, err := js.Conn().SubscribeSync("$JS.API.STREAM.INFO.TASKS_DEFAULT")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				for time.Since(start) < 5*time.Second {
					if _, err := c.Publish(t.Context(), Send{}); err != nil {
						if e := full(t, err); e.Messages != 3 {
							t.Errorf("refusal %+v, want the figures in each", *e)
						}
					}
					time.Sleep(200 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		if n, _, err := asked.Pending(); err != nil || n < 4 || n > 6 {
			t.Errorf("the broker was asked %d times in 5 s (%v), want 4 to 6", n, err)
		}
	})
}

func TestWaitForRoom(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		holds(t, js, 3)
		for _, c := range []struct {
			name string
			*client.Client
			opts []client.PublishOption
		}{
			{"option of the client", newClient(t, js, client.WaitForRoom(time.Minute)), nil},
			{"option of the publish", newClient(t, js, client.WaitForRoom(time.Hour)), []client.PublishOption{client.WaitForRoom(time.Minute)}},
		} {
			fill(t, newClient(t, js))
			tries, err := js.Conn().SubscribeSync("tasks.default.email.send")
			if err != nil {
				t.Fatal(err)
			}
			removed := remove(t, js, task.Default, 1, 45*time.Second, 0) // longer than the patience
			start := time.Now()
			rc, err := c.Publish(t.Context(), Send{}, c.opts...)
			if d := time.Since(start); err != nil || d < 45*time.Second || d > 48*time.Second {
				t.Fatalf("%s: Publish = %v after %v, want success when there is room, after 45 s", c.name, err, d)
			}
			removed()
			if n := stored(t, js, "TASKS_DEFAULT"); n != 3 || rc.ID == "" || rc.Duplicate {
				t.Errorf("%s: %d tasks are stored, receipt %+v, want 3 and a new one", c.name, n, rc)
			}
			n := 0
			for ; ; n++ {
				m, err := tries.NextMsgWithContext(within(t, time.Millisecond))
				if err != nil {
					break
				}
				if id := m.Header.Get(task.HeaderMsgID); id != rc.ID {
					t.Errorf("%s: a try has id %s, want %s in all", c.name, id, rc.ID)
				}
			}
			if n < 20 || n > 70 {
				t.Errorf("%s: %d tries in 45 s, want 20 to 70", c.name, n)
			}
			_ = tries.Unsubscribe()
		}
	})
}

func within(tb testing.TB, d time.Duration) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	tb.Cleanup(cancel)
	return ctx
}

func TestWaitForRoomInVain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		holds(t, js, 3)
		fill(t, newClient(t, js))
		c := newClient(t, js, client.WaitForRoom(10*time.Second))
		start := time.Now()
		_, err := c.Publish(t.Context(), Send{})
		e := full(t, err)
		if d := time.Since(start); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("gave up after %v, want 10 s", d)
		}
		if e.Messages != 3 || e.Over == 0 || !strings.Contains(err.Error(), "waited 10s for room: the stream is full") || !strings.Contains(err.Error(), "3 of 3 tasks") {
			t.Errorf("Publish = %v, want how long it waited and how full it is", err)
		}
	})
}

func TestWaitForRoomEndsWithContext(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		holds(t, js, 3)
		c := newClient(t, js, client.WaitForRoom(time.Hour))
		fill(t, newClient(t, js))
		why := errors.New("shutting down")
		for name, publish := range map[string]func(context.Context) error{
			"Publish":    func(ctx context.Context) error { _, err := c.Publish(ctx, Send{}); return err },
			"PublishAll": func(ctx context.Context) error { _, err := client.PublishAll(ctx, c, make([]Send, 3000)); return err },
		} {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(5*time.Second, func() { cancel(why) })
			start := time.Now()
			err := publish(ctx)
			if d := time.Since(start); d != 5*time.Second {
				t.Errorf("%s ended after %v, want 5 s", name, d)
			}
			if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || full(t, err).Messages != 3 {
				t.Errorf("%s = %v, want the context's error, its cause, and how full it is", name, err)
			}
		}
	})
}

func TestWaitForRoomIsChecked(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	if _, err := client.New(js, client.WaitForRoom(-1)); !errors.Is(err, client.ErrOption) {
		t.Errorf("New = %v, want ErrOption", err)
	}
	if _, err := newClient(t, js).Publish(t.Context(), Send{}, client.WaitForRoom(-1)); !errors.Is(err, client.ErrOption) {
		t.Errorf("Publish = %v, want ErrOption", err)
	}
}

// Many more tasks than there is room for go through as room is made, in little
// more tries than there are tasks.
func TestPublishAllWaitsForRoom(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		holds(t, js, 100)
		tries, err := js.Conn().SubscribeSync("tasks.default.email.send")
		if err != nil {
			t.Fatal(err)
		}
		const n = 3000
		removed := remove(t, js, task.Default, n, time.Second, 10*time.Millisecond)
		out, err := client.PublishAll(t.Context(), newClient(t, js), make([]Send, n), client.WaitForRoom(10*time.Second))
		if err != nil {
			t.Fatalf("PublishAll = %v", err)
		}
		want := map[string]bool{}
		for i, o := range out {
			if o.ID == "" || o.Duplicate || want[o.ID] {
				t.Fatalf("outcome %d is %+v, want a task of its own", i, o.Receipt)
			}
			want[o.ID] = true
		}
		for _, id := range removed() {
			if !want[id] {
				t.Errorf("task %s was run twice, or is none of these", id)
			}
			delete(want, id)
		}
		if len(want) > 0 {
			t.Errorf("%d tasks were never run", len(want))
		}
		if sent, _, err := tries.Pending(); err != nil || sent > 3*n {
			t.Errorf("%d tries for %d tasks (%v), want at most three times as many", sent, n, err)
		}
	})
}

func TestPublishAllWaitsForRoomInVain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		holds(t, js, 10)
		start := time.Now()
		out, err := client.PublishAll(t.Context(), newClient(t, js), make([]Send, 5000), client.WaitForRoom(10*time.Second))
		if d := time.Since(start); d < 10*time.Second || d > 12*time.Second {
			t.Errorf("gave up after %v, want 10 s for all of them", d)
		}
		if e := full(t, err); e.Messages != 10 || !strings.Contains(err.Error(), "4990 failed, the first is number 10: ") {
			t.Errorf("PublishAll = %v, want 4990 failures from number 10 on", err)
		}
		for i, o := range out {
			if i < 10 && o.Err != nil || i >= 10 && !errors.Is(o.Err, client.ErrFull) {
				t.Errorf("outcome %d = %v, want 10 stored and the rest refused", i, o.Err)
			}
		}
	})
}

// When the wait is over, what is left is refused at the broker's pace, not one by
// one.
func TestPublishAllGivesUpAtOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		if _, err := js.Conn().Subscribe("tasks.default.email.send", func(m *nats.Msg) {
			time.AfterFunc(20*time.Millisecond, func() {
				_ = m.Respond([]byte(`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}`))
			})
		}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err := client.PublishAll(t.Context(), newClient(t, js), make([]Send, 5000), client.WaitForRoom(10*time.Second))
		full(t, err)
		if d := time.Since(start); d < 10*time.Second || d > 13*time.Second {
			t.Errorf("gave up after %v, want 10 s and a little", d)
		}
	})
}

// A producer that may not read the stream's info is refused all the same, and
// waits all the same.
func TestFullWithoutPermissionToLook(t *testing.T) {
	t.Parallel()
	js, admin := allowed(t, []string{"tasks.default.email.>"}, []string{"_INBOX.>"})
	s, err := admin.Stream(t.Context(), "TASKS_DEFAULT")
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxMsgs = 1
	if _, err := admin.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, js)
	fill(t, c)
	start := time.Now()
	for range 20 {
		e := fill(t, c)
		if e.Messages != 0 || e.RetryAfter != time.Second || e.Stream != "TASKS_DEFAULT" || e.Error() != "the stream is full: maximum messages exceeded; try again in 1s" {
			t.Errorf("refusal %+v: %v, want no figures", *e, e)
		}
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("20 refusals took %v: it asks again and again", d)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), Send{}, client.WaitForRoom(time.Minute)); err != nil {
		t.Errorf("Publish = %v", err)
	}
}

// A body that finds no room in BODIES waits as well.
func TestWaitForRoomForBody(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		fleet(t, js)
		const name = "OBJ_" + task.BodiesBucket
		limit := func(n int64) {
			s, err := js.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			cfg := s.CachedInfo().Config
			cfg.MaxBytes = n
			if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
		}
		limit(1 << 10)
		c := newClient(t, js)
		_, err := c.Publish(t.Context(), Send{Text: noise(400 << 10)}, client.WaitForRoom(3*time.Second))
		if e := full(t, err); e.Stream != name || e.MaxBytes != 1<<10 {
			t.Errorf("Publish = %v: %+v, want how full BODIES is", err, *e)
		}
		time.AfterFunc(3*time.Second, func() { limit(-1) })
		if _, err := c.Publish(t.Context(), Send{Text: noise(400 << 10)}, client.WaitForRoom(10*time.Second)); err != nil {
			t.Errorf("Publish = %v, want success when there is room", err)
		}
	})
}
