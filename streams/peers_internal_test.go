package streams

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestServers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		info *jetstream.ClusterInfo
		want int
	}{
		{"not a cluster", nil, 1},
		{"one copy", &jetstream.ClusterInfo{Leader: "n1"}, 1},
		{"three copies", &jetstream.ClusterInfo{Leader: "n1", Replicas: []*jetstream.PeerInfo{{Name: "n2"}, {Name: "n3"}}}, 3},
		{"one is away", &jetstream.ClusterInfo{Leader: "n1", Replicas: []*jetstream.PeerInfo{{Name: "n2"}, {Name: "n3", Offline: true}}}, 2},
		{"an election", &jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{{Name: "n2"}, {Name: "n3"}}}, 2},
	} {
		if got := servers(tt.info); got != tt.want {
			t.Errorf("%s: servers() = %d, want %d", tt.name, got, tt.want)
		}
	}
}
