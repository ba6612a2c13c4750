package deadletter_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// neverAnswer pulls from a lane and settles nothing until stop: workers that die.
func neverAnswer(tb testing.TB, js jetstream.JetStream, stream, consumer string) (stop func()) {
	tb.Helper()
	c, err := js.Consumer(tb.Context(), stream, consumer)
	if err != nil {
		tb.Fatal(err)
	}
	return natstest.Beside(tb, func(ctx context.Context) {
		for ctx.Err() == nil {
			batch, err := c.Fetch(100, jetstream.FetchMaxWait(50*time.Millisecond))
			if err != nil {
				return
			}
			for range batch.Messages() { // and forgets it
			}
		}
	})
}

// giveUp has the broker give up what waits in a lane, and returns once it has
// said so n times.
func giveUp(tb testing.TB, js jetstream.JetStream, stream, consumer string, n int) {
	tb.Helper()
	sub, err := js.Conn().SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + stream + "." + consumer)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	stop := neverAnswer(tb, js, stream, consumer)
	defer stop()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	for range n {
		if _, err := sub.NextMsgWithContext(ctx); err != nil {
			tb.Fatalf("the broker does not give up: %v", err)
		}
	}
}

// handled waits until no advisory is waiting or being handled.
func handled(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	limit := time.Now().Add(patience)
	for {
		c, err := js.Consumer(tb.Context(), task.AdvisoryStream, "deadletter")
		if err != nil {
			tb.Fatal(err)
		}
		info := c.CachedInfo()
		if info.NumPending == 0 && info.NumAckPending == 0 {
			return
		}
		if time.Now().After(limit) {
			tb.Fatalf("%d advisories wait and %d are being handled", info.NumPending, info.NumAckPending)
		}
		time.Sleep(20 * time.Millisecond) // nothing tells of an acknowledgement
	}
}

// A task whose workers never answer becomes one dead letter, as its worker would
// have written it, whichever lane it is in and however many processes look.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	st := task.State{
		Subject: task.Subject{Class: task.Default, Service: "email", Action: "send"}, ID: "b", Attempt: 1, Hop: 3, Deaths: 1,
		Errors: []task.Failure{{Attempt: 1, Error: "first"}},
	}
	body := bytes.Repeat([]byte{0x81, 0xa1, 'a', 0, 0xff}, 1000)
	tests := []struct {
		name, stream, consumer string
		processes              int
		msg                    *nats.Msg
		want                   map[string]string
	}{
		{
			"live", live, "email", 1,
			&nats.Msg{Subject: subject, Data: body, Header: nats.Header{
				"Nats-Msg-Id": {"a"}, "traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "X-Mine": {"1", "2"}, "Task-Ref": {"r"},
			}},
			map[string]string{
				"Task-Id": "a", "Task-Hop": "1", "Task-Deaths": "2", "Task-Reason": "crash-loop", "Task-Subject": subject, "X-Mine": "1", "Task-Ref": "r",
				"Nats-Msg-Id": "default.email.send:a:0:1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			},
		},
		{
			"retry", task.RetryStream, "default-email", 1,
			&nats.Msg{Subject: st.Subject.RetryReady("b"), Data: body, Header: st.Header(nil)},
			map[string]string{"Task-Id": "b", "Task-Hop": "4", "Task-Deaths": "3", "Task-Attempt": "1", "Task-Reason": "crash-loop", "Nats-Msg-Id": "default.email.send:b:0:4"},
		},
		{
			"two processes", live, "email", 2,
			&nats.Msg{Subject: subject, Data: body, Header: nats.Header{"Nats-Msg-Id": {"c"}}},
			map[string]string{"Task-Id": "c", "Task-Hop": "1", "Task-Reason": "crash-loop"},
		},
		{
			"no headers, in RETRY", task.RetryStream, "default-email", 1,
			&nats.Msg{Subject: "retry.ready.default.email.send.x", Data: body},
			map[string]string{"Task-Hop": "1", "Task-Reason": "crash-loop"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			topology(t, js)
			for range tt.processes {
				start(t, js, quick())
			}
			publish(t, js, tt.msg)
			giveUp(t, js, tt.stream, tt.consumer, 1)
			l := letters(t, js, 1)[0]
			if !bytes.Equal(l.Data, body) {
				t.Errorf("the letter's body has %d bytes and is another, want the task's %d", len(l.Data), len(body))
			}
			for k, want := range tt.want {
				if got := first(l.Header[k]); got != want {
					t.Errorf("%s = %q, want %q", k, got, want)
				}
			}
			if diff := cmp.Diff(tt.msg.Header["X-Mine"], l.Header["X-Mine"]); diff != "" {
				t.Errorf("a foreign header (-task +letter):\n%s", diff)
			}
			if l.Header.Get("Task-Died-At") == "" || !strings.Contains(l.Header.Get("Task-Errors"), "gave it up after 2 deliveries") {
				t.Errorf("the letter does not say when and why: %v", l.Header)
			}
			handled(t, js)
			if n := messages(t, js, tt.stream); n != 0 {
				t.Errorf("%s holds %d messages, want the original deleted", tt.stream, n)
			}
			if n := messages(t, js, task.DeadStream); n != 1 {
				t.Errorf("DEAD holds %d letters, want 1", n)
			}
		})
	}
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// A process that is killed between the copy and the deletion leaves both; the
// next one deletes and does not copy again, though the broker has forgotten the id.
func TestKilledBetweenCopyAndDelete(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js)
	setStream(t, js, task.DeadStream, func(c *jetstream.StreamConfig) { c.Duplicates = 100 * time.Millisecond })
	p := natstest.Spawn(t, "watchdog", envURL+"="+url, envCrash+"=1")
	publish(t, js, &nats.Msg{Subject: subject, Data: []byte{0x80}, Header: nats.Header{"Nats-Msg-Id": {"a"}}})
	giveUp(t, js, live, "email", 1)
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("the process is not killed")
	}
	if dead, left := messages(t, js, task.DeadStream), messages(t, js, live); dead != 1 || left != 1 {
		t.Fatalf("DEAD holds %d letters and %s %d tasks after the kill, want 1 and 1", dead, live, left)
	}
	start(t, js, quick())
	handled(t, js)
	if dead, left := messages(t, js, task.DeadStream), messages(t, js, live); dead != 1 || left != 0 {
		t.Errorf("DEAD holds %d letters and %s %d tasks, want 1 and 0", dead, live, left)
	}
}

// What went on elsewhere before the advisory was read is not copied; what is done
// is left alone.
func TestMovedMeanwhile(t *testing.T) {
	t.Parallel()
	at := task.Subject{Class: task.Default, Service: "email", Action: "send"}
	moved := func(where string, hop, generation int) *nats.Msg {
		st := task.State{Subject: at, ID: "a", Hop: hop, Generation: generation}
		return &nats.Msg{Subject: where, Data: []byte{0x80}, Header: st.Header(nil)}
	}
	tests := []struct {
		name       string
		meanwhile  *nats.Msg
		done       bool // the late acknowledgement of the original came
		dead, left uint64
	}{
		{"to RETRY", moved(at.RetryReady("a"), 1, 0), false, 0, 0},
		{"to DEAD", moved(at.Dead("a"), 1, 0), false, 1, 0},
		{"redriven and dead again", moved(at.Dead("a"), 0, 1), false, 1, 0},
		{"an earlier generation in DEAD", moved(at.Dead("a"), 0, 0), false, 2, 0},
		{"done late", nil, true, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			topology(t, js)
			publish(t, js, &nats.Msg{Subject: subject, Data: []byte{0x80}, Header: nats.Header{"Nats-Msg-Id": {"a"}}})
			giveUp(t, js, live, "email", 1)
			if tt.meanwhile != nil {
				publish(t, js, tt.meanwhile)
			}
			if tt.done {
				if _, err := js.Conn().Request(fmt.Sprintf("$JS.ACK.%s.email.2.1.2.%d.0", live, time.Now().UnixNano()), nil, patience); err != nil {
					t.Fatal(err)
				}
			}
			start(t, js, quick())
			handled(t, js)
			if dead, left := messages(t, js, task.DeadStream), messages(t, js, live); dead != tt.dead || left != tt.left {
				t.Errorf("DEAD holds %d letters and %s %d tasks, want %d and %d", dead, live, left, tt.dead, tt.left)
			}
		})
	}
}

// While DEAD refuses, the task stays where it is, the service says why it is not
// ready, and goes on by itself.
func TestDeadIsFull(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	setStream(t, js, task.DeadStream, func(c *jetstream.StreamConfig) { c.MaxBytes = 100 })
	r := start(t, js, quick())
	publish(t, js, &nats.Msg{Subject: subject, Data: []byte{0x80}, Header: nats.Header{"Nats-Msg-Id": {"a"}}})
	giveUp(t, js, live, "email", 1)
	line := r.log.wait(saying("a task that the broker gave up on cannot be moved; it stays where it is, and is tried again"))
	if text, _ := line["error"].(string); !strings.Contains(text, "redrive or discard letters") {
		t.Errorf("the log says %q, want what to do", text)
	}
	if err := r.ready(); err == nil || !strings.Contains(err.Error(), "maximum bytes exceeded") {
		t.Errorf("Ready = %v, want why it is not", err)
	}
	if n := messages(t, js, live); n != 1 {
		t.Errorf("%s holds %d tasks, want 1", live, n)
	}
	setStream(t, js, task.DeadStream, func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 })
	letters(t, js, 1)
	r.log.wait(saying("tasks that the broker gave up on are moved again"))
	if err := r.ready(); err != nil {
		t.Errorf("Ready = %v, want nil", err)
	}
}

// Advisories about other people's consumers and about what was stored later under
// the same sequence are passed over.
func TestForeignAdvisories(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	publish(t, js, &nats.Msg{Subject: subject, Data: []byte{0x80}})
	say := func(stream, consumer string, at time.Time) {
		text := fmt.Sprintf(`{"type":"io.nats.jetstream.advisory.v1.max_deliver","timestamp":%q,"stream":%q,"consumer":%q,"stream_seq":1,"deliveries":20}`,
			at.UTC().Format(time.RFC3339Nano), stream, consumer)
		publish(t, js, &nats.Msg{Subject: "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + stream + "." + consumer, Data: []byte(text)})
	}
	say("ORDERS", "billing", time.Now())
	say(live, "somebody", time.Now())
	say(live, "email", time.Now().Add(-time.Hour)) // before the task was stored
	publish(t, js, &nats.Msg{Subject: "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.a.b", Data: []byte("{")})
	start(t, js, quick())
	handled(t, js)
	if dead, left := messages(t, js, task.DeadStream), messages(t, js, live); dead != 0 || left != 1 {
		t.Errorf("DEAD holds %d letters and %s %d tasks, want 0 and 1", dead, live, left)
	}
}

// A lane that the fleet file of this process does not have is a lane all the same.
func TestLaneOfANewerFleet(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	setStream(t, js, live, func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "tasks.default.fax.>") })
	cfg := fleet().Topology().Consumers[0].Config
	cfg.Durable, cfg.FilterSubject, cfg.MaxDeliver, cfg.AckWait = "fax", "tasks.default.fax.>", maxDead, 100*time.Millisecond
	if _, err := js.CreateConsumer(t.Context(), live, cfg); err != nil {
		t.Fatal(err)
	}
	start(t, js, quick())
	publish(t, js, &nats.Msg{Subject: "tasks.default.fax.send", Data: []byte{0x80}})
	giveUp(t, js, live, "fax", 1)
	if got := letters(t, js, 1)[0].Subject; !strings.HasPrefix(got, "dead.default.fax.send.") {
		t.Errorf("the letter is at %s, want dead.default.fax.send.…", got)
	}
}

// A worker that terminates a task deletes it; the service can only say so.
func TestTerminated(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	r := start(t, js, quick())
	publish(t, js, &nats.Msg{Subject: subject, Data: []byte{0x80}})
	c, err := js.Consumer(t.Context(), live, "email")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.TermWithReason("no good"); err != nil {
		t.Fatal(err)
	}
	match := saying("a worker terminated a task, which deletes it without a dead letter: workers are to move it to DEAD instead")
	handledOrSaid := r.log.wait(func(line map[string]any) bool {
		return match(line) || line["msg"] == "a task that the broker gave up on is moved" // when it was read before it was deleted
	})
	if match(handledOrSaid) && handledOrSaid["reason"] != "no good" {
		t.Errorf("the log says %v, want the reason", handledOrSaid)
	}
}
