package task_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/task"
)

func TestPartition(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		stored    string
		partition int
		ok        bool
	}{
		{"tasks.bulk.sync.page.acme.7", 7, true},
		{"tasks.bulk.sync.page.acme.31", 31, true},
		{"tasks.bulk.sync.page.7.0", 0, true},
		{"tasks.bulk.sync.*.*.3", 3, true}, // the filter of a consumer
		{"tasks.bulk.sync.page.ü.4", 4, true},
		{"tasks.bulk.sync.page.7", 0, false}, // a tenant
		{"tasks.bulk.sync.7", 0, false},      // an action
		{"tasks.bulk.sync.page.acme", 0, false},
		{"tasks.bulk.sync.page.acme.x7", 0, false},
		{"tasks.bulk.sync.page.acme.1234", 0, false},
		{"tasks.bulk.sync.page.acme.", 0, false},
		{"tasks.bulk.sync.page.acme.x.7", 0, false},
		{"retry.ready.bulk.sync.page.7", 0, false}, // an id
		{"7", 0, false},
		{"", 0, false},
	} {
		if n, ok := task.Partition(tt.stored); n != tt.partition || ok != tt.ok {
			t.Errorf("Partition(%q) = %d, %v, want %d, %v", tt.stored, n, ok, tt.partition, tt.ok)
		}
	}
}

// Whatever is published, a task that the broker has put into a partition reads as
// one that it has not: same class, kind, tenant, and subject in its moves.
func FuzzPartition(f *testing.F) {
	for _, s := range [][2]string{{"page", "acme"}, {"page", "7"}, {"7", "7"}, {"pa$ge", "acme"}, {"*", ">"}, {"page", "ü"}, {"page", strings.Repeat("x", 65)}} {
		f.Add(s[0], s[1], 7)
	}
	f.Fuzz(func(t *testing.T, action, tenant string, n int) {
		if strings.ContainsAny(action+tenant, ". \t\r\n") || action == "" || tenant == "" {
			return // not a subject that a fair class takes
		}
		published := "tasks.bulk.sync." + action + "." + tenant
		n &= 31
		kept := strings.Replace(task.PartitionFilter(task.Bulk, "sync", n), "*.*", action+"."+tenant, 1)
		want, werr := task.ReadState(published, nats.Header{"Task-Id": {"a"}}, stored)
		got, err := task.ReadState(kept, nats.Header{"Task-Id": {"a"}}, stored)
		if got.Subject != want.Subject || (err == nil) != (werr == nil) {
			t.Fatalf("%s reads as %+v, %v, and %s as %+v, %v", kept, got.Subject, err, published, want.Subject, werr)
		}
		if moved := got.Header(nil).Get(task.HeaderSubject); moved != published {
			t.Fatalf("published to %s, its moves say %s", published, moved)
		}
		if p, ok := task.Partition(kept); p != n || !ok {
			t.Fatalf("Partition(%q) = %d, %v, want %d", kept, p, ok, n)
		}
	})
}
