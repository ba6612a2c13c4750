package deadletter_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

func TestAmend(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	s := dead("one")
	s.Generation = 1
	packed, _ := task.Compress(bytes.Repeat([]byte("mail "), 2000))
	l := letter(t, js, bury(t, js, s, nats.Header{"X-Own": {"1"}, "Task-Encoding": {"zstd"}}, packed))
	_, err := deadletter.Amend(t.Context(), js, l, []byte{0xdd}, "act")
	wantError(t, "Amend with a bad body", err, task.ErrBadBody)
	if n := stored(t, js, task.DeadStream); n != 1 {
		t.Fatalf("%d letters after a refusal, want 1", n)
	}
	content := body(t, mail{To: "ada@example.org"})
	rc, err := deadletter.Amend(t.Context(), js, l, content, "act")
	if want := (client.Receipt{ID: "one", Stream: "TASKS_DEFAULT", Sequence: 1}); err != nil || rc != want {
		t.Fatalf("Amend = %+v, %v, want %+v", rc, err, want)
	}
	m := message(t, js, rc.Stream, rc.Sequence)
	want := nats.Header{
		"Nats-Msg-Id": {s.RedriveID()}, "Task-Id": {"one"}, "Task-Generation": {"2"}, "Task-Edited": {"act"}, "X-Own": {"1"},
	}
	if diff := cmp.Diff(want, m.Header); diff != "" || !bytes.Equal(m.Data, content) {
		t.Errorf("body %x, want %x; header (-want +got):\n%s", m.Data, content, diff)
	}
	if n := stored(t, js, task.DeadStream); n != 0 {
		t.Errorf("%d letters left, want none", n)
	}
}

// A large body goes behind the claim check, and the old one goes when the new
// generation is stored and not before.
func TestAmendLargeBodies(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	store, err := js.ObjectStore(t.Context(), task.BodiesBucket)
	if err != nil {
		t.Fatal(err)
	}
	objects := func() (names []string) {
		infos, err := store.List(t.Context())
		if err != nil {
			return nil
		}
		for _, i := range infos {
			names = append(names, i.Name)
		}
		return names
	}
	if _, err := store.PutBytes(t.Context(), "old", body(t, mail{To: "a"})); err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 300<<10)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	content := body(t, map[string]any{"noise": noise})

	s := dead("one")
	s.Subject.Class = task.Slow // which no stream takes
	l := letter(t, js, bury(t, js, s, nats.Header{task.HeaderRef: {"old"}}, nil))
	_, err = deadletter.Amend(t.Context(), js, l, content, "act")
	wantError(t, "Amend without a stream", err, client.ErrNoStream)
	if diff := cmp.Diff([]string{"old"}, objects()); diff != "" {
		t.Errorf("BODIES after a refusal (-want +got):\n%s", diff)
	}

	s.Subject.Class = task.Default
	l = letter(t, js, bury(t, js, s, nats.Header{task.HeaderRef: {"old"}}, nil))
	rc, err := deadletter.Amend(t.Context(), js, l, content, "act")
	if err != nil {
		t.Fatalf("Amend = %v", err)
	}
	m := message(t, js, rc.Stream, rc.Sequence)
	ref := m.Header.Get(task.HeaderRef)
	if diff := cmp.Diff([]string{ref}, objects()); diff != "" || len(m.Data) > 0 {
		t.Errorf("a body of %d bytes in the message; BODIES (-want +got):\n%s", len(m.Data), diff)
	}
	if got, err := store.GetBytes(t.Context(), ref); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the new body has %d bytes, %v, want the %d that were given", len(got), err, len(content))
	}
}

// Somebody redrives a letter while somebody else edits it.
func TestAmendOvertaken(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		header nats.Header
		worked bool
		want   error
	}{
		{name: "unedited", want: deadletter.ErrNotFound},
		{name: "with another edit", header: nats.Header{task.HeaderEdited: {"theirs"}}, want: deadletter.ErrNotFound},
		{name: "and it ran", worked: true, want: deadletter.ErrNotFound},
		{name: "by an earlier try of ours", header: nats.Header{task.HeaderEdited: {"act"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			fleet(t, js)
			s := dead("one")
			l := letter(t, js, bury(t, js, s, nil, body(t, mail{To: "a"})))
			h := nats.Header{task.HeaderMsgID: {s.RedriveID()}, task.HeaderID: {"one"}, task.HeaderGeneration: {"1"}}
			maps.Copy(h, tt.header)
			seq := put(t, js, s.Subject.String(), h, nil)
			if tt.worked {
				stream, err := js.Stream(t.Context(), "TASKS_DEFAULT")
				if err != nil {
					t.Fatal(err)
				}
				if err := stream.DeleteMsg(t.Context(), seq); err != nil {
					t.Fatal(err)
				}
			}
			_, err := deadletter.Amend(t.Context(), js, l, body(t, mail{To: "b"}), "act")
			if !errors.Is(err, tt.want) {
				t.Errorf("Amend = %v, want %v", err, tt.want)
			}
			if n := stored(t, js, "TASKS_DEFAULT"); n > 1 {
				t.Errorf("%d tasks, want one generation", n)
			}
		})
	}
}

// Mails died of one typo. Somebody finds the group, looks at one, mends its address,
// sees it go through, and has the others follow.
func TestStoryOfATypo(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	got := make(chan string, 100) // more than there are mails
	working(t, js, func(_ context.Context, m mail) error {
		got <- m.To
		return nil
	})
	buryMails(t, js, 40, "ada@exmaple.org")
	census := groups(t, js, deadletter.Filter{})
	if len(census.Groups) != 1 || census.Groups[0].Count != 40 {
		t.Fatalf("Groups = %+v, want one of 40", census)
	}
	n := 0
	for l, err := range deadletter.List(t.Context(), js, deadletter.Filter{Fingerprint: census.Groups[0].Fingerprint}) {
		if err != nil {
			t.Fatal(err)
		}
		content, err := l.Content(t.Context(), js)
		if err != nil {
			t.Fatal(err)
		}
		d := document(t, content)
		if err := d.Set("to", "ada@example.org"); err != nil {
			t.Fatal(err)
		}
		if _, err := deadletter.Amend(t.Context(), js, l, bodyOf(t, d), "act"); err != nil {
			t.Fatal(err)
		}
		n++
	}
	for range n {
		if to := <-got; to != "ada@example.org" {
			t.Errorf("a mail went to %s, want the mended address", to)
		}
	}
	if n != 40 || stored(t, js, task.DeadStream) != 0 {
		t.Errorf("%d mended, %d letters left, want 40 and none", n, stored(t, js, task.DeadStream))
	}
}
