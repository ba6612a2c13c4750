package deploytest_test

import (
	"crypto/rand"
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// The operator's key takes a backup larger than the broker sends without an
// answer, and puts it back; a service's key can do neither.
func TestBackupByKey(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	u := g.as(t, streams.OperatorUser)
	const count, size = 60, 200 << 10 // of noise that does not compress: 12 MB
	body := make([]byte, size)
	for range count {
		_, _ = rand.Read(body) // never fails
		if _, err := u.js.Publish(t.Context(), "tasks.default.email.send", body); err != nil {
			t.Fatal(err)
		}
	}
	chunks, info := u.backup(t, task.Default.Stream())
	if err := u.js.DeleteStream(t.Context(), task.Default.Stream()); err != nil {
		t.Fatal(err)
	}
	u.restore(t, task.Default.Stream(), info, chunks)
	s, err := u.js.Stream(t.Context(), task.Default.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != count {
		t.Errorf("restored messages = %d, want %d", n, count)
	}
	u.clean(t)

	email := g.as(t, "email")
	for _, subject := range []string{"$JS.SNAPSHOT.RESTORE.DEAD.x", "$JS.SNAPSHOT.ACK.DEAD.x", "$JS.API.STREAM.SNAPSHOT.DEAD", "$JS.API.STREAM.RESTORE.DEAD"} {
		if err := email.refusal(t, func() error { return email.nc.Publish(subject, nil) }); err == nil {
			t.Errorf("email published to %s, want a refusal", subject)
		}
	}
}

// backup is what `nats stream backup` does.
func (u *user) backup(t *testing.T, stream string) (chunks [][]byte, info jetstream.StreamInfo) {
	t.Helper()
	inbox := u.nc.NewInbox()
	sub, err := u.nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	req, err := json.Marshal(map[string]any{"deliver_subject": inbox, "chunk_size": 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	m, err := u.nc.Request("$JS.API.STREAM.SNAPSHOT."+stream, req, limit)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.Data, &info); err != nil || info.Config.Name != stream {
		t.Fatalf("snapshot of %s = %s, %v", stream, m.Data, err)
	}
	for {
		m, err := sub.NextMsg(limit)
		if err != nil {
			t.Fatalf("after %d chunks: %v", len(chunks), err)
		}
		if len(m.Data) == 0 { // the end, with a status when it is a bad one
			if s := m.Header.Get("Status"); s != "" && s != "204" {
				t.Fatalf("the snapshot ended after %d chunks: %v", len(chunks), m.Header)
			}
			return chunks, info
		}
		chunks = append(chunks, m.Data)
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// restore is what `nats stream restore` does.
func (u *user) restore(t *testing.T, stream string, info jetstream.StreamInfo, chunks [][]byte) {
	t.Helper()
	req, err := json.Marshal(map[string]any{"config": info.Config, "state": info.State})
	if err != nil {
		t.Fatal(err)
	}
	m, err := u.nc.Request("$JS.API.STREAM.RESTORE."+stream, req, limit)
	if err != nil {
		t.Fatal(err)
	}
	var to struct {
		Deliver string `json:"deliver_subject"`
	}
	if err := json.Unmarshal(m.Data, &to); err != nil || to.Deliver == "" {
		t.Fatalf("restore of %s = %s, %v", stream, m.Data, err)
	}
	for i, chunk := range append(chunks, nil) { // an empty one ends it
		if _, err := u.nc.Request(to.Deliver, chunk, limit); err != nil {
			t.Fatalf("chunk %d of %d: %v", i, len(chunks), err)
		}
	}
}
