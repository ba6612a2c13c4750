package quota

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/task"
)

const (
	prefix  = "rate."
	keepFor = 30 * time.Second // a record beyond what it says
	maxKey  = 200              // bytes of a key that a record shows
)

// Record is a schedule as it stands in the bucket.
type Record struct {
	Key   string        `json:"key"` // cut after 200 bytes
	Limit int           `json:"limit"`
	Per   time.Duration `json:"per_ns"`
	ratelimit.Schedule
}

// Entry is one rate limit in the bucket.
type Entry struct {
	Service string
	Record
}

// List returns the rate limits that were used within the last half minute or have
// tasks in line, of one service or, when that is "", of all. What cannot be read is
// an error in its place, and the rest follows. Its error wraps [record.ErrNoBucket]
// or [broker.ErrDenied].
func List(ctx context.Context, js jetstream.JetStream, service string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if service == "" {
			service = "*"
		}
		for e, err := range record.List[Record](ctx, bucket(js), prefix+service+".*") {
			of, _, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), ".")
			if !yield(Entry{of, e.Value}, err) {
				return
			}
		}
	}
}

func bucket(js jetstream.JetStream) record.Bucket { return record.In(js, task.LimitsBucket) }

// id is under what the record of a key stands, which may hold anything.
func id(service, key string) string { return record.Key(prefix+service+".", key) }

// short is as much of a key as a record shows.
func short(s string) string {
	if len(s) <= maxKey {
		return s
	}
	return strings.ToValidUTF8(s[:maxKey], "") + "…"
}
