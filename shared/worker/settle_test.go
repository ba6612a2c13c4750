package worker_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// A failed attempt is logged as a warning and a death as an error, with what a person
// needs to find the task; a task that goes well is not logged.
func TestFailuresAreLogged(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var log bytes.Buffer
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(_ context.Context, n note) error {
				if n.Text == "bad" {
					return errors.New("no such column")
				}
				return nil
			}, worker.Retry(retry.Policy{Attempts: 2, Base: time.Minute, Cap: time.Minute}))
		}, worker.Logger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "delay" { // which has jitter
				return slog.Attr{}
			}
			return a
		}}))))
		publish(t, js, "a", note{Text: "bad"})
		publish(t, js, "b", note{Text: "good"})
		time.Sleep(5 * time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "task.id") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		want := []string{
			`level=WARN msg="attempt failed: the task runs again" task.kind=test.note task.id=a task.class=default task.attempt=1 task.reason=retry error="no such column"`,
			`level=ERROR msg="task is dead" task.kind=test.note task.id=a task.class=default task.attempt=2 task.reason=failed error="no such column"`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

// A task whose handler fails once runs again when its backoff is over, and then
// is gone from everywhere.
func TestErrorThenSuccess(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		begin := time.Now()
		var runs []task.Info
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				info, _ := task.FromContext(ctx)
				runs = append(runs, info)
				if info.Attempt == 0 {
					return errors.New("the first one fails")
				}
				return nil
			}, worker.Retry(retry.Policy{Base: time.Hour, Cap: time.Hour}))
		})
		publish(t, js, "a", note{Text: "hello"})
		time.Sleep(2 * time.Hour)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		info := task.Info{ID: "a", Kind: "test.note", Class: task.Default, EnqueuedAt: begin.UTC()}
		second := info
		second.Attempt = 1
		if diff := cmp.Diff([]task.Info{info, second}, runs); diff != "" {
			t.Errorf("runs (-want +got):\n%s", diff)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// After the last attempt the task is in DEAD: the same body, the publisher's
// headers, and the error and time of every attempt.
func TestAttemptsSpent(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var at []time.Time
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				at = append(at, time.Now())
				info, _ := task.FromContext(ctx)
				return errors.New("no " + strings.Repeat("x", info.Attempt))
			}, worker.Retry(retry.Policy{Attempts: 3}))
		})
		body := []byte("\x82\xa4text\xd9\x05hello\xa1n\x01") // str8 where fixstr would do: must come back as it was
		sent := nats.Header{"X-Origin": {"here", "there"}, "Nats-Msg-Id": {"a"}}
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "tasks.default.test.note.acme", Data: body, Header: sent}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		dead := letters(t, js)
		if len(dead) != 1 {
			t.Fatalf("%d dead letters, want 1", len(dead))
		}
		if want := "dead.default.test.note.a"; dead[0].Subject != want {
			t.Errorf("subject %s, want %s", dead[0].Subject, want)
		}
		if !bytes.Equal(dead[0].Data, body) {
			t.Errorf("body %x, want %x", dead[0].Data, body)
		}
		if diff := cmp.Diff([]string{"here", "there"}, dead[0].Header["X-Origin"]); diff != "" {
			t.Errorf("X-Origin (-want +got):\n%s", diff)
		}
		st := state(t, "DEAD", dead[0])
		if len(st.Errors) != 3 || len(at) != 3 {
			t.Fatalf("%d failures in the history of %d runs, want 3 of 3: %+v", len(st.Errors), len(at), st.Errors)
		}
		for i, f := range st.Errors {
			if want := "no " + strings.Repeat("x", i); f.Error != want || f.Attempt != i+1 || !f.At.Equal(at[i]) {
				t.Errorf("failure %d is %+v, want attempt %d: %q at %v", i, f, i+1, want, at[i])
			}
		}
		if st.Reason != task.Failed || st.Attempt != 3 || st.Hop != 3 || st.Subject.Tenant != "acme" || !st.DiedAt.Equal(at[2]) {
			t.Errorf("state %+v, want reason failed, attempt 3, hop 3, tenant acme, died at %v", st, at[2])
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY")
	})
}

// An attempt that is put off burns nothing, and three times within a second is
// three moves of one attempt: not one lost as a duplicate, not three copies.
func TestPutOffThreeTimes(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var runs []int
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, n note) error {
				info, _ := task.FromContext(ctx)
				runs = append(runs, info.Attempt)
				if len(runs) <= 3 {
					return retry.After(10*time.Millisecond, errors.New("too many requests"))
				}
				return nil
			}, worker.Retry(retry.Policy{Attempts: 1}))
		})
		publish(t, js, "a", note{})
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]int{0, 0, 0, 0}, runs); diff != "" {
			t.Errorf("attempt numbers of the runs (-want +got):\n%s", diff)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}

// The worker of a first delivery died between the move and the acknowledgement:
// the second delivery must not run, wherever the move went.
func TestRedeliveredAfterMove(t *testing.T) {
	for _, tt := range []struct {
		name    string
		subject string
		hop     string
		runs    int32 // of the original
	}{
		{"moved to a timer", "retry.wait.default.test.note.a", "1", 0},
		{"moved to be due", "retry.ready.default.other.note.a", "1", 1}, // of another service: no move of this task
		{"moved to DEAD", "dead.default.test.note.a", "1", 0},
		{"an older generation's dead letter", "dead.default.test.note.a", "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				topology(t, js, ackWait)
				publish(t, js, "a", note{})
				c, err := js.Consumer(t.Context(), "TASKS_DEFAULT", "test")
				if err != nil {
					t.Fatal(err)
				}
				if b, err := c.Fetch(1, jetstream.FetchContext(t.Context())); err != nil || len(b.Messages()) > 1 {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				moved := &nats.Msg{Subject: tt.subject, Header: nats.Header{
					"Task-Id": {"a"}, "Task-Subject": {"tasks.default.test.note"}, "Nats-Msg-Id": {"default.test.note:a:0:1"},
				}}
				if tt.hop != "" {
					moved.Header.Set("Task-Hop", tt.hop)
				}
				if _, err := js.PublishMsg(t.Context(), moved); err != nil {
					t.Fatal(err)
				}
				var runs atomic.Int32
				_, stop := start(t, js, func(w *worker.Worker) {
					worker.Handle(w, func(context.Context, note) error { runs.Add(1); return nil })
				})
				time.Sleep(2 * ackWait)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				if got := runs.Load(); got != tt.runs {
					t.Errorf("the original ran %d times, want %d", got, tt.runs)
				}
				empty(t, js, "TASKS_DEFAULT")
			})
		})
	}
}

// What cannot or must not be run is dead-lettered at once, as it came, with the
// reason, and the process lives. One whose body is missing may be done elsewhere: it is
// dead-lettered when it is handed out once more.
func TestNotRunnable(t *testing.T) {
	past := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC).Format(time.RFC3339)
	for _, tt := range []struct {
		name    string
		subject string
		origin  string // as the letter has it; "" when it is subject
		header  nats.Header
		body    string
		reason  task.Reason
		says    string
		after   time.Duration // 0: at once
	}{
		{name: "no msgpack", body: "hello", reason: task.Undecodable, says: "bad body"},
		{name: "five bytes that exhaust memory", body: "\xdd\xff\xff\xff\xff", reason: task.Undecodable, says: "bad body"},
		{name: "nesting bomb", body: "\x81\xa1a" + strings.Repeat("\x91", 100_000), reason: task.Undecodable, says: "bad body"},
		{name: "wrong type", body: "\x81\xa1n\xa3abc", reason: task.Undecodable, says: "decode arguments"},
		{name: "decompression bomb", header: nats.Header{"Task-Encoding": {"zstd"}}, body: string(bomb(t)), reason: task.Undecodable, says: "bad body"},
		{name: "not zstd", header: nats.Header{"Task-Encoding": {"zstd"}}, body: "\x80", reason: task.Undecodable, says: "bad body"},
		{name: "unknown encoding", header: nats.Header{"Task-Encoding": {"gzip"}}, body: "\x80", reason: task.Undecodable, says: "Task-Encoding"},
		{name: "lost claim check", header: nats.Header{"Task-Ref": {"nowhere"}}, reason: task.Undecodable, says: "BODIES", after: ackWait},
		{name: "bad deadline", header: nats.Header{"Task-Deadline": {"tomorrow"}}, reason: task.Undecodable, says: "Task-Deadline"},
		{name: "deadline passed", header: nats.Header{"Task-Deadline": {past}}, reason: task.Expired, says: "deadline"},
		{name: "unknown kind", subject: "tasks.default.test.other", reason: task.UnknownKind, says: "test.other"},
		{name: "illegal action", subject: "tasks.default.test.a$b", reason: task.Undecodable, says: "bad subject"},
		{name: "literal wildcard", subject: "tasks.default.test.>", reason: task.Undecodable, says: "bad subject"},
		{name: "too many tokens", subject: "tasks.default.test.note.a.b.c", reason: task.Undecodable, says: "bad subject"},
		{name: "long token", subject: "tasks.default.test." + strings.Repeat("a", 65), reason: task.Undecodable, says: "bad subject"},
		{name: "retry of nobody knows what", subject: "retry.ready.default.test.note.a", origin: "tasks.default.test.note", reason: task.Undecodable, says: "bad subject"},
		{
			name: "retry of a wildcard", subject: "retry.ready.default.test.note.a", header: nats.Header{"Task-Subject": {"tasks.>"}},
			origin: "tasks.default.test.note", reason: task.Undecodable, says: "bad subject",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
				topology(t, js, ackWait)
				var runs int
				_, stop := start(t, js, func(w *worker.Worker) {
					worker.Handle(w, func(context.Context, note) error { runs++; return nil })
				})
				subject := tt.subject
				if subject == "" {
					subject = "tasks.default.test.note"
				}
				msg := &nats.Msg{Subject: subject, Header: nats.Header{"Nats-Msg-Id": {"weird id/1"}}, Data: []byte(tt.body)}
				maps.Copy(msg.Header, tt.header)
				if _, err := js.PublishMsg(t.Context(), msg); err != nil {
					t.Fatal(err)
				}
				publish(t, js, "sound", note{})
				time.Sleep(time.Second)
				if n := len(letters(t, js)); tt.after > 0 && n > 0 {
					t.Errorf("%d dead letters within a second, want none before %v", n, tt.after)
				}
				time.Sleep(tt.after)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				dead := letters(t, js)
				if len(dead) != 1 {
					t.Fatalf("%d dead letters, want 1", len(dead))
				}
				if got := task.Reason(dead[0].Header.Get("Task-Reason")); got != tt.reason {
					t.Errorf("reason %q, want %q", got, tt.reason)
				}
				if got := dead[0].Header.Get("Task-Errors"); !strings.Contains(got, tt.says) {
					t.Errorf("history %s, want it to say %q", got, tt.says)
				}
				if !bytes.Equal(dead[0].Data, msg.Data) {
					t.Error("the body is not the one that was published")
				}
				want := tt.origin
				if want == "" {
					want = subject
				}
				if got := dead[0].Header.Get("Task-Subject"); got != want {
					t.Errorf("original subject %s, want %s", got, want)
				}
				if runs != 1 {
					t.Errorf("%d handlers ran, want the sound one alone", runs)
				}
				empty(t, js, "TASKS_DEFAULT", "RETRY")
			})
		})
	}
}

// bomb is 32 MiB of zeros in a few KiB of zstd.
func bomb(t *testing.T) []byte {
	t.Helper()
	b, ok := task.Compress(make([]byte, 32<<20))
	if !ok {
		t.Fatal("zeros do not compress")
	}
	return b
}

// A body at exactly the stream's limit keeps its place through every move,
// although each adds headers to it.
func TestLargestBodyFailsAllAttempts(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		long := strings.Repeat("e", 10_000)
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error { return errors.New(long) })
		})
		header := nats.Header{"Nats-Msg-Id": {"a"}, "X-Large": {strings.Repeat("h", 30_000)}}
		size := 512<<10 - len("NATS/1.0\r\n\r\n") - len("Nats-Msg-Id: a\r\n") - len("X-Large: \r\n") - 30_000
		body := append([]byte("\x81\xa4text\xc6\x00\x00\x00\x00"), make([]byte, size-11)...)
		n := len(body) - 11
		copy(body[7:], []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		msg := &nats.Msg{Subject: "tasks.default.test.note", Data: body, Header: header}
		if _, err := js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatalf("publish at the limit: %v", err)
		}
		over := &nats.Msg{Subject: msg.Subject, Data: append(slices.Clip(body), 0), Header: nats.Header{"Nats-Msg-Id": {"b"}, "X-Large": header["X-Large"]}}
		if _, err := js.PublishMsg(t.Context(), over); err == nil {
			t.Fatal("a message above the limit was accepted")
		}
		time.Sleep(2 * time.Hour)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		dead := letters(t, js)
		if len(dead) != 1 || !bytes.Equal(dead[0].Data, body) {
			t.Fatalf("%d dead letters, want the one with the body as published", len(dead))
		}
		if st := state(t, "DEAD", dead[0]); st.Attempt != 5 || len(st.Errors) == 0 {
			t.Errorf("%d attempts, %d in the history, want 5 and at least the last", st.Attempt, len(st.Errors))
		}
	})
}

// A DEAD that refuses keeps the task where it is: the handler does not run
// again, the worker says why it is not ready, and goes on once there is room.
func TestDeadRefuses(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		dead, err := js.Stream(t.Context(), "DEAD")
		if err != nil {
			t.Fatal(err)
		}
		full := dead.CachedInfo().Config
		full.MaxMsgs = 1
		if _, err := js.UpdateStream(t.Context(), full); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), "dead.default.test.note.other", nil); err != nil {
			t.Fatal(err)
		}
		runs := 0
		w, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error {
				runs++
				return retry.Permanent(errors.New("no such account"))
			})
		})
		publish(t, js, "a", note{})
		time.Sleep(10 * ackWait)
		if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "DEAD") {
			t.Errorf("Ready() = %v while DEAD is full, want an error that names it", err)
		}
		if got := len(all(t, js, "TASKS_DEFAULT")); got != 1 {
			t.Errorf("%d tasks in their stream while DEAD refuses, want 1: nothing is acknowledged before it is stored", got)
		}
		full.MaxMsgs = 2
		if _, err := js.UpdateStream(t.Context(), full); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if err := w.Ready(); err != nil {
			t.Errorf("Ready() = %v after DEAD has room again", err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if runs != 1 {
			t.Errorf("the handler ran %d times, want 1", runs)
		}
		if got := len(letters(t, js)); got != 2 {
			t.Errorf("%d dead letters, want 2", got)
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY")
	})
}

// A panic is a failed attempt with its stack; the worker goes on.
func TestPanic(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(context.Context, note) error { panic("at the disco") }, worker.Retry(retry.Policy{Attempts: 1}))
		})
		publish(t, js, "a", note{})
		synctest.Wait()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		dead := letters(t, js)
		if len(dead) != 1 {
			t.Fatalf("%d dead letters, want 1", len(dead))
		}
		if got := state(t, "DEAD", dead[0]).Errors[0].Error; !strings.Contains(got, "panic: at the disco") || !strings.Contains(got, "settle_test.go") {
			t.Errorf("history says %q, want the panic and its stack", got)
		}
	})
}

// anything takes every body that is a map.
type anything map[string]any

func (anything) Kind() string { return "test.note" }

// A raw publish without any header runs like any other task, with the bodies that
// another language's msgpack wrote, and with none at all.
func TestRawPublishRuns(t *testing.T) {
	var vectors []struct{ Name, Hex string }
	b, err := os.ReadFile("../../docs/wire/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js, ackWait)
		var mu sync.Mutex
		ids := map[string]bool{}
		_, stop := start(t, js, func(w *worker.Worker) {
			worker.Handle(w, func(ctx context.Context, _ anything) error {
				info, _ := task.FromContext(ctx)
				mu.Lock()
				defer mu.Unlock()
				ids[info.ID] = true
				return nil
			})
		})
		for _, v := range vectors {
			body, err := hex.DecodeString(v.Hex)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.Publish(t.Context(), "tasks.default.test.note", body); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := js.Publish(t.Context(), "tasks.default.test.note", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if len(vectors) < 25 || len(ids) != len(vectors)+1 {
			t.Errorf("%d of %d vectors and an empty body ran, each under an id of its own", len(ids), len(vectors))
		}
		empty(t, js, "TASKS_DEFAULT", "RETRY", "DEAD")
	})
}
