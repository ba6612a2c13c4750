package deadletter

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// Group is the letters with one fingerprint.
type Group struct {
	Fingerprint string
	Kind        string
	Class       task.Class
	Reason      task.Reason
	Text        string // the last error, without what differs from task to task; "" when there is none
	Count       int
	First, Last time.Time // when letters of it died

	// Of the letter that died last.
	ID       string
	Sequence uint64
	Error    string // the last one, as stored
}

// Census is what [Groups] counts.
type Census struct {
	Groups []Group // in the order in which they are met
	Count  int     // letters, in groups or not
	Rest   int     // letters of further groups, which are not told apart
}

// maxGroups bounds the memory of a census. Errors that hold words of their task's
// own make a group of each.
const maxGroups = 10_000

// Groups counts the letters that meet f by their fingerprints. It reads all of DEAD
// that f lets the broker leave in, bodies too: the broker has no way to get headers
// alone that makes no consumer. That is some 20,000 letters a second on one core
// when all errors differ (BenchmarkGroups), and as many bytes as DEAD holds. It holds a batch of
// letters and at most 10,000 groups in memory, however many letters there are; what
// belongs to further groups is in Census.Rest. It returns the errors of [List].
func Groups(ctx context.Context, js jetstream.JetStream, f Filter) (Census, error) {
	var c Census
	at := map[string]int{} // of a group in c.Groups
	known := memo{}
	for l, err := range List(ctx, js, f) {
		if err != nil {
			return c, fmt.Errorf("count dead letters: %w", err)
		}
		c.Count++
		key := known.fingerprint(&l)
		i, ok := at[key]
		if !ok && len(c.Groups) == maxGroups {
			c.Rest++
			continue
		}
		if !ok {
			i = len(c.Groups)
			at[key] = i
			c.Groups = append(c.Groups, Group{
				Fingerprint: key, Kind: l.Subject.Kind(), Class: l.Subject.Class, Reason: l.Reason, Text: wording(l.LastError()), First: l.DiedAt,
			})
		}
		c.Groups[i].add(&l)
	}
	return c, nil
}

// memo holds fingerprints: taking one costs more than reading a letter does, and
// many letters died of the same error to the letter.
type memo map[memoKey]string

type memoKey struct{ kind, class, reason, text string }

const maxMemo = 4096

func (m memo) fingerprint(l *Letter) string {
	key := memoKey{l.Subject.Kind(), string(l.Subject.Class), string(l.Reason), l.LastError()}
	f, ok := m[key]
	if !ok {
		if len(m) == maxMemo {
			clear(m)
		}
		f = Fingerprint(l)
		m[key] = f
	}
	return f
}

func (g *Group) add(l *Letter) {
	g.Count++
	if l.DiedAt.Before(g.First) {
		g.First = l.DiedAt
	}
	if !l.DiedAt.Before(g.Last) {
		g.Last, g.ID, g.Sequence, g.Error = l.DiedAt, l.ID, l.Sequence, l.LastError()
	}
}
