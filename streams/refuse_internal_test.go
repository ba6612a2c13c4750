package streams

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestFewerCopiesNeedAllUpToDate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		from, to  int
		cluster   *jetstream.ClusterInfo
		mentioned string // "" when it is not refused
	}{
		{"up to date", 3, 1, &jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{{Name: "a", Current: true}, {Name: "b", Current: true}}}, ""},
		{"one behind", 3, 1, &jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{{Name: "a", Current: true}, {Name: "b"}}}, "copy on b"},
		{"one away", 5, 3, &jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{{Name: "a", Current: true, Offline: true}}}, "copy on a"},
		{"more copies", 3, 5, &jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{{Name: "a"}}}, ""},
		{"no cluster", 3, 1, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r refusal
			r.copies(&jetstream.StreamInfo{Config: jetstream.StreamConfig{Replicas: tt.from}, Cluster: tt.cluster}, jetstream.StreamConfig{Name: "DEAD", Replicas: tt.to})
			if got := strings.Join(r.notes, ""); tt.mentioned == "" && got != "" || !strings.Contains(got, tt.mentioned) {
				t.Errorf("from %d to %d copies: refused with %q, want %q in it", tt.from, tt.to, got, tt.mentioned)
			}
		})
	}
}

func TestHumanUnits(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1: "1 B", 1 << 30: "1 GiB", 1<<30 + 1: "1073741825 B", 1536 << 10: "1536 KiB"} {
		if got := humanBytes(n); got != want {
			t.Errorf("humanBytes(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		30 * time.Second: "30 s", 90 * time.Second: "90 s", 10 * time.Minute: "10 min", 7 * 24 * time.Hour: "7 d",
		250 * time.Millisecond: "250 ms", 1500 * time.Microsecond: "1.5ms", 0: "0s",
	} {
		if got := humanDuration(d); got != want {
			t.Errorf("humanDuration(%v) = %s, want %s", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 3000 << 10: "2.9 MiB"} {
		if got := roughBytes(n); got != want {
			t.Errorf("roughBytes(%d) = %s, want %s", n, got, want)
		}
	}
}
