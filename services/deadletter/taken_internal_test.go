package deadletter

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// What one consumer of a fair class has given up is not taken for what another one
// holds.
func TestTaken(t *testing.T) {
	t.Parallel()
	lane := func(filters ...string) streams.Consumer {
		return streams.Consumer{Config: jetstream.ConsumerConfig{FilterSubjects: filters}}
	}
	named := lane(task.FairFilters(task.Bulk, "email")...)
	third := lane(task.PartitionFilter(task.Bulk, "email", 3))
	plain := lane(task.Filter(task.Bulk, "email"))
	for _, tt := range []struct {
		name    string
		lane    streams.Consumer
		subject string
		want    bool
	}{
		{"without a tenant", named, "tasks.bulk.email.send", true},
		{"from before it was fair", named, "tasks.bulk.email.send.acme", true},
		{"of a partition", named, "tasks.bulk.email.send.acme.3", false},
		{"of its partition", third, "tasks.bulk.email.send.acme.3", true},
		{"of another partition", third, "tasks.bulk.email.send.acme.4", false},
		{"without a tenant, of a partition", third, "tasks.bulk.email.send", false},
		{"of a plain class", plain, "tasks.bulk.email.send.acme", true},
		{"of another service", plain, "tasks.bulk.webhook.send.acme", false},
		{"of nothing", plain, "tasks.bulk.email", false},
	} {
		if got := taken(tt.lane, tt.subject); got != tt.want {
			t.Errorf("%s: taken(%v, %s) = %v, want %v", tt.name, tt.lane.Filters(), tt.subject, got, tt.want)
		}
	}
}
