package worker

import (
	"testing"

	"github.com/nats-io/nats.go"
)

// A reply subject is read as nats.go reads it, in both of its forms, and what is
// no reply subject of JetStream is refused.
func TestReadReply(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{
		"$JS.ACK.TASKS_DEFAULT.email.1.234567.1234.1763650000000000123.1000",
		"$JS.ACK._.acchash.TASKS_DEFAULT.email.20.234567.1234.1763650000000000123.1000.token",
		"$JS.ACK.hub.acchash.TASKS_DEFAULT.email.20.234567.1234.1763650000000000123.1000",
	} {
		m := &nats.Msg{Reply: reply, Sub: &nats.Subscription{}}
		d := &delivery{msg: m}
		want, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if !d.readReply() || uint64(d.delivered) != want.NumDelivered || d.sequence != want.Sequence.Stream || d.storedAt != want.Timestamp.UnixNano() {
			t.Errorf("%s reads as delivered %d, sequence %d, stored at %d, want %+v", reply, d.delivered, d.sequence, d.storedAt, want)
		}
	}
	for _, reply := range []string{
		"", "_INBOX.x", "$JS.ACK.S.C.1.2.3.4", "$JS.ACK.S.C.x.2.3.4.5", "$JS.ACK.S.C.1.-2.3.4.5", "$JS.ACK.a.S.C.1.2.3.4.5",
		"$JS.ACK.a.b.c.d.1.2.3.4.5.6.7.8.9",
	} {
		if d := (&delivery{msg: &nats.Msg{Reply: reply}}); d.readReply() {
			t.Errorf("%q passes for a reply subject: %+v", reply, d)
		}
	}
}

func BenchmarkReadReply(b *testing.B) {
	m := &nats.Msg{Reply: "$JS.ACK.TASKS_DEFAULT.email.1.234567.1234.1763650000000000123.1000", Sub: &nats.Subscription{}}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		d := &delivery{msg: m}
		for b.Loop() {
			if !d.readReply() {
				b.Fatal("not read")
			}
		}
	})
	b.Run("nats.go", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.Metadata(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
