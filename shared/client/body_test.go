package client_test

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

func TestPublishLargeBodies(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	store, err := js.ObjectStore(t.Context(), task.BodiesBucket)
	if err != nil {
		t.Fatal(err)
	}
	body := func(n int, content []byte) []byte { // a map of one entry, n bytes in all
		n -= 8
		return append([]byte{0x81, 0xa1, 'a', 0xc6, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, content[:n]...)
	}
	flat := func(n int) []byte { return body(n, bytes.Repeat([]byte{'x'}, n)) }
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = rand.Read(b)
		return body(n, b)
	}
	tests := []struct {
		name string
		body []byte
		zstd bool
		ref  bool
	}{
		{name: "4 KiB", body: flat(4 << 10)},
		{name: "above 4 KiB", body: flat(4<<10 + 1), zstd: true},
		{name: "random of 200 KiB", body: random(200 << 10)},
		{name: "random of 256 KiB", body: random(256 << 10)},
		{name: "random above 256 KiB", body: random(256<<10 + 1), ref: true},
		{name: "random of 16 MiB", body: random(16<<20 - 1), ref: true},
		{name: "half random of 700 KiB", body: body(700<<10, append(random(400<<10), flat(300<<10)...)), zstd: true, ref: true},
		{name: "blanks of 8 MiB", body: flat(8 << 20), zstd: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rc, err := c.Publish(t.Context(), task.Raw{Name: "email.send", Body: tt.body})
			if err != nil {
				t.Fatalf("Publish = %v", err)
			}
			m := message(t, js, rc)
			s, err := task.ReadState(m.Subject, m.Header, task.Stored{})
			if err != nil || (s.Ref != "") != tt.ref || (s.Encoding != "") != tt.zstd {
				t.Fatalf("ReadState = %+v, %v, want ref %v and zstd %v", s, err, tt.ref, tt.zstd)
			}
			got := m.Data
			if tt.ref {
				if len(m.Data) != 0 {
					t.Errorf("message has %d bytes beside its body in %s", len(m.Data), s.Ref)
				}
				if got, err = store.GetBytes(t.Context(), s.Ref); err != nil {
					t.Fatalf("get %s: %v", s.Ref, err)
				}
			}
			if tt.zstd {
				if got, err = task.Decompress(got, 0); err != nil {
					t.Fatalf("Decompress = %v", err)
				}
			}
			if !bytes.Equal(got, tt.body) {
				t.Errorf("body of %d bytes is not the one of %d that was published", len(got), len(tt.body))
			}
		})
	}
}

func TestPublishLargeBodyTwice(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	c := newClient(t, js)
	first, err := c.Publish(t.Context(), Send{Text: noise(400 << 10)}, client.ID("one"))
	if err != nil {
		t.Fatalf("Publish = %v", err)
	}
	ref := message(t, js, first).Header.Get(task.HeaderRef)
	second, err := c.Publish(t.Context(), Send{Text: noise(400 << 10)}, client.ID("one"))
	if err != nil || !second.Duplicate {
		t.Fatalf("Publish again = %+v, %v, want a duplicate", second, err)
	}
	if diff := cmp.Diff([]string{ref}, bodies(t, js)); diff != "" {
		t.Errorf("BODIES (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(ref, "email.send:one:") {
		t.Errorf("body is called %s, want kind and id in front", ref)
	}
}

func TestRemovedBodyLeavesNothing(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 20 }) // any task is refused
	_, err := newClient(t, js).Publish(t.Context(), Send{Text: noise(700 << 10)})
	if err == nil {
		t.Fatal("Publish = nil, want an error")
	}
	if n := stored(t, js, "OBJ_BODIES"); n != 0 {
		t.Errorf("%d messages stay in OBJ_BODIES, want none", n)
	}
}

func TestPublishAllLargeBodies(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	fleet(t, js)
	tasks := make([]Send, 40)
	for i := range tasks {
		if tasks[i].Text = "small"; i%4 == 0 {
			tasks[i].Text = noise(400 << 10)
		}
	}
	out, err := client.PublishAll(t.Context(), newClient(t, js), tasks)
	if err != nil {
		t.Fatalf("PublishAll = %v", err)
	}
	store, err := js.ObjectStore(t.Context(), task.BodiesBucket)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range out {
		m := message(t, js, o.Receipt)
		body := m.Data
		if ref := m.Header.Get(task.HeaderRef); ref != "" {
			if body, err = store.GetBytes(t.Context(), ref); err != nil {
				t.Fatalf("get %s: %v", ref, err)
			}
		}
		if m.Header.Get(task.HeaderEncoding) != "" {
			if body, err = task.Decompress(body, 0); err != nil {
				t.Fatal(err)
			}
		}
		var got Send
		if err := task.Unmarshal(body, &got); err != nil || got != tasks[i] {
			t.Errorf("task %d is not the one that was published (%v)", i, err)
		}
	}
}
