package deadletter_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
)

func TestRedrive(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	s := dead("order 3/ü")
	s.Subject.Tenant, s.Generation, s.Deaths = "acme", 1, 2
	s.Deadline = died.Add(-time.Minute)
	content, _ := task.Compress(bytes.Repeat([]byte("mail "), 2000))
	seq := bury(t, js, s, nats.Header{
		"X-Own": {"1", "2"}, "Task-Track": {"1h"}, "baggage": {"k=v"}, "Traceparent": {oldTrace}, "tracestate": {"a=b"},
		"nats-schedule": {"@every 1s"}, "Task-Encoding": {"zstd"},
	}, content)

	l := letter(t, js, seq)
	rc, err := deadletter.Redrive(t.Context(), js, l, deadletter.TracerProvider(nil))
	if want := (client.Receipt{ID: s.ID, Stream: "TASKS_DEFAULT", Sequence: 1}); err != nil || rc != want {
		t.Fatalf("Redrive = %+v, %v, want %+v", rc, err, want)
	}
	m := message(t, js, rc.Stream, rc.Sequence)
	if m.Subject != "tasks.default.email.send.acme" || !bytes.Equal(m.Data, content) {
		t.Errorf("published %q to %s, want the same body where it came from", m.Data, m.Subject)
	}
	want := nats.Header{
		"Nats-Msg-Id": {s.RedriveID()}, "Task-Id": {s.ID}, "Task-Generation": {"2"}, "Task-Encoding": {"zstd"},
		"X-Own": {"1", "2"}, "Task-Track": {"1h"}, "baggage": {"k=v"},
	}
	if diff := cmp.Diff(want, m.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	st, err := task.ReadState(m.Subject, m.Header, task.Stored{Time: m.Time})
	if err != nil || st.ID != s.ID || st.Generation != 2 || st.Attempt != 0 || !st.EnqueuedAt.Equal(m.Time) || !st.Deadline.IsZero() {
		t.Errorf("ReadState = %+v, %v, want generation 2 without a past", st, err)
	}
	if n := stored(t, js, task.DeadStream); n != 0 {
		t.Errorf("%d letters left, want none", n)
	}
	_, err = deadletter.Redrive(t.Context(), js, l)
	wantError(t, "Redrive again", err, deadletter.ErrNotFound)
	if n := stored(t, js, rc.Stream); n != 1 {
		t.Errorf("%d tasks, want 1", n)
	}
}

// Three people redrive fifty letters at the same time.
func TestRedriveAtOnce(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	const n, people = 50, 3
	var letters []deadletter.Letter
	for i := range n {
		letters = append(letters, letter(t, js, bury(t, js, dead(name(i)), nil, fmt.Appendf(nil, "body %d", i))))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	receipts := map[string]client.Receipt{}
	published := 0
	for _, l := range letters {
		for range people {
			wg.Go(func() {
				rc, err := deadletter.Redrive(t.Context(), js, l)
				if errors.Is(err, deadletter.ErrNotFound) {
					return // another one was done with it
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("Redrive = %v", err)
				}
				if !rc.Duplicate {
					published++
				}
				rc.Duplicate = false
				if first, ok := receipts[l.ID]; ok && first != rc {
					t.Errorf("two generations: %+v and %+v", first, rc)
				}
				receipts[l.ID] = rc
			})
		}
	}
	wg.Wait()
	if published != n || len(receipts) != n || stored(t, js, "TASKS_DEFAULT") != n || stored(t, js, task.DeadStream) != 0 {
		t.Errorf("%d published, %d receipts, %d stored, %d letters left, want %d, %d, %d, 0",
			published, len(receipts), stored(t, js, "TASKS_DEFAULT"), stored(t, js, task.DeadStream), n, n, n)
	}
	for id, rc := range receipts {
		m := message(t, js, rc.Stream, rc.Sequence)
		if m.Header.Get(task.HeaderID) != id || m.Header.Get(task.HeaderGeneration) != "1" {
			t.Errorf("task %d is %v, want generation 1 of %s", rc.Sequence, m.Header, id)
		}
	}
}

// A process that died between publishing and deleting left both.
func TestRedriveAfterCrash(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	s := dead("one")
	seq := bury(t, js, s, nil, nil)
	put(t, js, s.Subject.String(), nats.Header{task.HeaderMsgID: {s.RedriveID()}, task.HeaderGeneration: {"1"}}, nil)
	rc, err := deadletter.Redrive(t.Context(), js, letter(t, js, seq))
	if err != nil || !rc.Duplicate || rc.Sequence != 1 {
		t.Errorf("Redrive = %+v, %v, want the task that is there", rc, err)
	}
	if n, left := stored(t, js, "TASKS_DEFAULT"), stored(t, js, task.DeadStream); n != 1 || left != 0 {
		t.Errorf("%d tasks and %d letters, want 1 and none", n, left)
	}
}

func TestRedriveRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*jetstream.StreamConfig)
		state  func(*task.State)
		header func(nats.Header)
		want   error
		tasks  uint64
	}{
		{name: "class full", change: func(c *jetstream.StreamConfig) {
			if c.Name != task.DeadStream {
				c.MaxMsgSize = 0
				c.MaxBytes = 100
			}
		}, want: client.ErrFull},
		{name: "too large for class", change: func(c *jetstream.StreamConfig) {
			if c.Name != task.DeadStream {
				c.MaxMsgSize = 10
			}
		}, want: client.ErrTooLarge},
		{name: "no stream", state: func(s *task.State) { s.Subject.Class = task.Slow }, want: client.ErrNoStream},
		{name: "no subject", header: func(h nats.Header) { delete(h, task.HeaderSubject) }, want: deadletter.ErrNoSubject},
		{name: "bad subject", header: func(h nats.Header) { h[task.HeaderSubject] = []string{"tasks.default.email.*"} }, want: deadletter.ErrNoSubject},
		{name: "foreign subject", header: func(h nats.Header) { h[task.HeaderSubject] = []string{"retry.ready.a.b.c.d"} }, want: deadletter.ErrNoSubject},
		{name: "letter cannot be deleted", change: func(c *jetstream.StreamConfig) {
			c.DenyDelete = c.Name == task.DeadStream
		}, want: deadletter.ErrStays, tasks: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			if tt.change == nil {
				tt.change = func(*jetstream.StreamConfig) {}
			}
			fleet(t, js, tt.change)
			s := dead("one")
			if tt.state != nil {
				tt.state(&s)
			}
			h := s.Header(nil)
			if tt.header != nil {
				tt.header(h)
			}
			seq := put(t, js, s.Subject.Dead(s.ID), h, nil)
			l := letter(t, js, seq)
			_, err := deadletter.Redrive(t.Context(), js, l)
			wantError(t, "Redrive", err, tt.want)
			if diff := cmp.Diff(l.Header, letter(t, js, seq).Header); diff != "" {
				t.Errorf("the letter changed:\n%s", diff)
			}
			if n := stored(t, js, "TASKS_DEFAULT"); n != tt.tasks {
				t.Errorf("%d tasks, want %d", n, tt.tasks)
			}
		})
	}
}

// A sequence is used again only when DEAD was made anew.
func TestRedriveOtherLetter(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	l := letter(t, js, bury(t, js, dead("one"), nil, nil))
	l.Where = "dead.default.email.send.other"
	_, err := deadletter.Redrive(t.Context(), js, l)
	wantError(t, "Redrive", err, deadletter.ErrNotFound)
	wantError(t, "Discard", deadletter.Discard(t.Context(), js, l, "test"), deadletter.ErrNotFound)
	if n := stored(t, js, task.DeadStream); n != 1 {
		t.Errorf("%d letters, want 1", n)
	}
}

// What could not be decoded goes back as it came, to be checked again.
func TestRedriveUndecodable(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	s := dead("one")
	s.Reason = task.Undecodable
	bomb := []byte{0xdd, 0xff, 0xff, 0xff, 0xff}
	h := s.Header(nil)
	h[task.HeaderAttempt] = []string{"many"}
	l := letter(t, js, put(t, js, s.Subject.Dead(s.ID), h, bomb))
	wantError(t, "problem", l.Problem, task.ErrBadHeader)
	rc, err := deadletter.Redrive(t.Context(), js, l)
	if err != nil {
		t.Fatalf("Redrive = %v", err)
	}
	if m := message(t, js, rc.Stream, rc.Sequence); !bytes.Equal(m.Data, bomb) {
		t.Errorf("body %x, want %x", m.Data, bomb)
	}
}

func TestRedriveSpan(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	s := dead("one")
	s.Prev = "00-0123456789abcdef0123456789abcdef-aaaaaaaaaaaaaaaa-01"
	seq := bury(t, js, s, nats.Header{"traceparent": {oldTrace}}, nil)
	spans := tracetest.NewSpanRecorder()
	tp := sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))
	ctx, parent := tp.Tracer("test").Start(t.Context(), "a person")
	rc, err := deadletter.Redrive(ctx, js, letter(t, js, seq), deadletter.TracerProvider(tp))
	if err != nil {
		t.Fatalf("Redrive = %v", err)
	}
	ended := spans.Ended()
	if len(ended) != 1 {
		t.Fatalf("%d spans, want 1", len(ended))
	}
	span := ended[0]
	if span.Name() != "redrive email.send" || span.SpanKind() != trace.SpanKindProducer || span.Parent().IsValid() {
		t.Errorf("span %q %v below %v, want a producer's root", span.Name(), span.SpanKind(), span.Parent())
	}
	var links []string
	for _, l := range span.Links() {
		links = append(links, telemetry.Traceparent(l.SpanContext))
	}
	if diff := cmp.Diff([]string{oldTrace, s.Prev, telemetry.Traceparent(parent.SpanContext())}, links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	if got := message(t, js, rc.Stream, rc.Sequence).Header["traceparent"]; !cmp.Equal(got, []string{telemetry.Traceparent(span.SpanContext())}) {
		t.Errorf("traceparent %v, want the redrive's span", got)
	}
	attrs := map[string]any{}
	for _, kv := range span.Attributes() {
		attrs[string(kv.Key)] = kv.Value.AsInterface()
	}
	want := map[string]any{
		"messaging.system": "nats", "messaging.operation.name": "redrive", "messaging.operation.type": "send",
		"messaging.destination.name": "TASKS_DEFAULT", "messaging.message.id": s.RedriveID(), "messaging.nats.sequence": int64(1),
		"task.id": "one", "task.kind": "email.send", "task.class": "default", "task.generation": int64(1), "task.reason": "failed",
	}
	if diff := cmp.Diff(want, attrs); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

func TestDiscard(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	store, err := js.ObjectStore(t.Context(), task.BodiesBucket)
	if err != nil {
		t.Fatal(err)
	}
	args := map[string]any{"to": "a"}
	var letters []deadletter.Letter
	for i := range 2 {
		s := dead(name(i))
		s.Ref = "email.send:" + s.ID
		if _, err := store.PutBytes(t.Context(), s.Ref, body(t, args)); err != nil {
			t.Fatal(err)
		}
		letters = append(letters, letter(t, js, bury(t, js, s, nats.Header{task.HeaderRef: {s.Ref}}, nil)))
	}
	if got, err := letters[0].Arguments(t.Context(), js); err != nil || !cmp.Equal(got, args) {
		t.Errorf("Arguments = %v, %v, want %v", got, err, args)
	}
	if _, err := letters[0].Arguments(t.Context(), nil); err == nil {
		t.Error("Arguments without a connection = nil, want an error")
	}
	spans := tracetest.NewSpanRecorder()
	tp := deadletter.TracerProvider(sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)))
	if err := deadletter.Discard(t.Context(), js, letters[0], "customer left", tp); err != nil {
		t.Fatalf("Discard = %v", err)
	}
	if n := stored(t, js, task.DeadStream); n != 1 {
		t.Errorf("%d letters, want 1", n)
	}
	infos, err := store.List(t.Context())
	if err != nil || len(infos) != 1 || infos[0].Name != letters[1].Ref {
		t.Errorf("BODIES holds %v, %v, want only the other letter's", infos, err)
	}
	if n := stored(t, js, "OBJ_BODIES"); n != 2 {
		t.Errorf("%d messages in OBJ_BODIES, want the 2 of the other body", n)
	}
	_, err = letters[0].Arguments(t.Context(), js)
	wantError(t, "Arguments", err, deadletter.ErrNoBody)
	wantError(t, "Discard again", deadletter.Discard(t.Context(), js, letters[0], "again"), deadletter.ErrNotFound)
	if ended := spans.Ended(); len(ended) != 1 || ended[0].Name() != "discard email.send" {
		t.Errorf("spans %v, want one discard", ended)
	}

	// Redriven by someone else: the body is the new generation's now.
	if _, err := deadletter.Redrive(t.Context(), js, letters[1]); err != nil {
		t.Fatalf("Redrive = %v", err)
	}
	wantError(t, "Discard after a redrive", deadletter.Discard(t.Context(), js, letters[1], "late"), deadletter.ErrNotFound)
	if _, err := store.GetBytes(t.Context(), letters[1].Ref); err != nil {
		t.Errorf("body after a late discard = %v, want it there", err)
	}
}

// The letter goes first, so a body that cannot be removed is left without one.
func TestDiscardCannotRemoveBody(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	put(t, js, "$O.BODIES.M.ZW1haWwuc2VuZDpldmls", nil, []byte(`{"name":"email.send:evil","bucket":"BODIES","nuid":">","size":1,"chunks":1}`))
	for i, ref := range []string{"email.send:evil", "webhook.deliver:other"} {
		l := letter(t, js, bury(t, js, dead(name(i)), nats.Header{task.HeaderRef: {ref}}, nil))
		if err := deadletter.Discard(t.Context(), js, l, "test"); err == nil || !strings.Contains(err.Error(), `its body stays: remove body "`+ref+`" from BODIES`) {
			t.Errorf("Discard = %v, want an error about the body", err)
		}
	}
	if n := stored(t, js, task.DeadStream); n != 0 {
		t.Errorf("%d letters left, want none", n)
	}
}
