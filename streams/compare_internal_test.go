package streams

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestCovers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, subject string
		want             bool
	}{
		{"tasks.urgent.email.>", "tasks.urgent.email.>", true},
		{"tasks.urgent.email.>", "tasks.urgent.email.send", true},
		{"tasks.urgent.email.>", "tasks.urgent.email.send.acme", true},
		{"tasks.urgent.email.>", "tasks.urgent.email", false},
		{"tasks.urgent.email.>", "tasks.urgent.sms.>", false},
		{"tasks.*.email.>", "tasks.urgent.email.>", true},
		{"tasks.urgent.>", "tasks.urgent.email.>", true},
		{">", "tasks.urgent.email.>", true},
		{"tasks.*.*.*", "tasks.urgent.email.send", true},
		{"tasks.*.*.*", "tasks.urgent.email.>", false},
		{"tasks.*.*.*", "tasks.urgent.email.send.acme", false},
		{"tasks.urgent", "tasks.*", false},
		{"tasks.*", "tasks.*", true},
	}
	for _, tt := range tests {
		if got := covers(tt.pattern, tt.subject); got != tt.want {
			t.Errorf("covers(%s, %s) = %v, want %v", tt.pattern, tt.subject, got, tt.want)
		}
	}
}

func TestBytesThereAndBack(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"0", "1", "1023", "1KiB", "1025", "512KiB", "1536KiB", "64MiB", "1GiB", "3TiB"} {
		n, err := parseBytes(text)
		if got := formatBytes(n); err != nil || got != text {
			t.Errorf("formatBytes(parseBytes(%s)) = %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "GiB", "1.5GiB", "1 GB", "1gib", "9223372036854775807KiB", "0x10"} {
		if n, err := parseBytes(text); err == nil {
			t.Errorf("parseBytes(%q) = %d, want an error", text, n)
		}
	}
}

// Every setting is carried over when it differs: a set that did not would make
// Apply repeat itself for ever.
func TestCompareCarriesOver(t *testing.T) {
	t.Parallel()
	f := Default()
	odd := jetstream.StreamConfig{
		Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgs: 3, MaxMsgsPerSubject: 3, MaxAge: 3, MaxMsgSize: 3,
		Storage: jetstream.MemoryStorage, PersistMode: jetstream.AsyncPersistMode, Retention: jetstream.InterestPolicy,
		Sources: []*jetstream.StreamSource{{}}, SubjectTransform: &jetstream.SubjectTransformConfig{}, MaxBytes: 3, Duplicates: 3,
	}
	for _, want := range f.Topology().Streams {
		_, _, merged := compare(streamAttrs(), odd, want)
		if again, _, _ := compare(streamAttrs(), merged, want); len(again) > 0 {
			t.Errorf("%s: still differs: %v", want.Name, again)
		}
	}
}
