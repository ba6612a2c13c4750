package streams_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

func TestLanes(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		fleet := with(func(f *streams.Fleet) {
			f.Services = append(f.Services, streams.Service{Name: "sms", Classes: []task.Class{task.Urgent}})
		})
		apply(t, js, fleet)
		send := task.Subject{Class: task.Urgent, Service: "email", Action: "send"}
		publish(t, js, send.String(), 1)
		take(t, js, "TASKS_URGENT", "email", 5*time.Second)
		time.Sleep(5 * time.Second)
		publish(t, js, "tasks.urgent.sms.send", 1) // another lane's, between this one's
		publish(t, js, send.String(), 2)
		timer(t, js, send, "due", time.Now())
		timer(t, js, send, "waits", time.Now().Add(time.Hour))
		publish(t, js, send.Dead("d1"), 1)
		publish(t, js, send.Dead("d2"), 1)
		time.Sleep(10 * time.Second)

		got, err := streams.Lanes(t.Context(), js, fleet)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if got[i].Retry { // a timer fires up to 250 ms late
				got[i].WaitingAge, got[i].OldestAge = got[i].WaitingAge.Round(time.Second), got[i].OldestAge.Round(time.Second)
			}
		}
		want := []streams.Lane{
			{
				Class: task.Urgent, Service: "email", Depth: 2, InFlight: 1, Dead: 2,
				WaitingAge: 10 * time.Second, OldestAge: 15 * time.Second,
			},
			{
				Class: task.Urgent, Service: "email", Retry: true, Depth: 1, Waiting: 1,
				WaitingAge: 10 * time.Second, OldestAge: 10 * time.Second,
			},
			{
				Class: task.Urgent, Service: "sms", Depth: 1,
				WaitingAge: 10 * time.Second, OldestAge: 10 * time.Second,
			},
			{Class: task.Urgent, Service: "sms", Retry: true},
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("Lanes (-want +got):\n%s", d)
		}
	})
}

// take takes one message, waiting for it at most that long, and leaves it unsettled.
func take(tb testing.TB, js jetstream.JetStream, stream, consumer string, within time.Duration) jetstream.Msg {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	c, err := js.Consumer(tb.Context(), stream, consumer)
	if err != nil {
		tb.Fatal(err)
	}
	batch, err := c.Fetch(1, jetstream.FetchContext(ctx))
	if err != nil {
		tb.Fatal(err)
	}
	msg, ok := <-batch.Messages()
	if !ok {
		tb.Fatalf("take from %s/%s: %v", stream, consumer, batch.Error())
	}
	return msg
}

func TestLanesEmpty(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	apply(t, js, small())
	got, err := streams.Lanes(t.Context(), js, small())
	if err != nil {
		t.Fatal(err)
	}
	want := []streams.Lane{{Class: task.Urgent, Service: "email"}, {Class: task.Urgent, Service: "email", Retry: true}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Lanes (-want +got):\n%s", d)
	}
}

func TestLanesPausedAndRedelivered(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js, small())
		publish(t, js, "tasks.urgent.email.send", 1)
		take(t, js, "TASKS_URGENT", "email", 5*time.Second)
		time.Sleep(21 * time.Second) // past ack-wait
		take(t, js, "TASKS_URGENT", "email", 5*time.Second)
		until := time.Now().Add(time.Hour).UTC()
		if _, err := js.PauseConsumer(t.Context(), "RETRY", "urgent-email", until); err != nil {
			t.Fatal(err)
		}
		got, err := streams.Lanes(t.Context(), js, small())
		if err != nil {
			t.Fatal(err)
		}
		want := []streams.Lane{
			{Class: task.Urgent, Service: "email", InFlight: 1, Redelivered: 1, OldestAge: 21 * time.Second},
			{Class: task.Urgent, Service: "email", Retry: true, Paused: true, PausedUntil: until},
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("Lanes (-want +got):\n%s", d)
		}
	})
}

// Headers of a task are anyone's; those that look like the broker's must not
// change what is reported of the lane.
func TestLanesIgnoreForgedHeaders(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js, small())
		forged := &nats.Msg{Subject: "tasks.urgent.email.send", Header: nats.Header{
			"Status": {"404"}, "Nats-Num-Pending": {"99"}, "Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}, "Nats-Sequence": {"7"},
		}}
		if _, err := js.PublishMsg(t.Context(), forged); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		got, err := streams.Lanes(t.Context(), js, small())
		if err != nil {
			t.Fatal(err)
		}
		want := streams.Lane{Class: task.Urgent, Service: "email", Depth: 1, WaitingAge: 3 * time.Second, OldestAge: 3 * time.Second}
		if d := cmp.Diff(want, got[0]); d != "" {
			t.Errorf("Lanes (-want +got):\n%s", d)
		}
	})
}

func TestLanesWithoutTopology(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	lanes, err := streams.Lanes(t.Context(), js, small())
	if len(lanes) > 0 || err == nil || !strings.Contains(err.Error(), "drover streams apply") {
		t.Errorf("Lanes = %v, %v, want an error that says to apply", lanes, err)
	}
	apply(t, js, small())
	if err := js.DeleteStream(t.Context(), "DEAD"); err != nil {
		t.Fatal(err)
	}
	lanes, err = streams.Lanes(t.Context(), js, small())
	if len(lanes) != 1 || !lanes[0].Retry || err == nil || !strings.Contains(err.Error(), "stream DEAD") {
		t.Errorf("Lanes without DEAD = %v, %v, want the retry lane and an error naming DEAD", lanes, err)
	}
}

func BenchmarkLanes(b *testing.B) {
	js := natstest.JetStream(b)
	apply(b, js, small())
	s := task.Subject{Class: task.Urgent, Service: "email", Action: "send"}
	const timers = 20_000
	for i := range timers {
		id := "t" + strings.Repeat("x", 20) + time.Duration(i).String()
		msg := &nats.Msg{Subject: s.RetryWait(task.Token(id)), Header: nats.Header{
			task.HeaderSchedule:       {"@at " + time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339Nano)},
			task.HeaderScheduleTarget: {s.RetryReady(task.Token(id))},
		}}
		if _, err := js.PublishMsgAsync(msg); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	for b.Loop() {
		lanes, err := streams.Lanes(b.Context(), js, small())
		if err != nil {
			b.Fatal(err)
		}
		if lanes[1].Waiting != timers {
			b.Fatalf("Waiting = %d, want %d", lanes[1].Waiting, timers)
		}
	}
}
