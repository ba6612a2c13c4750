package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/telemetry"
)

// group is one kind of death, as the bucket ALERTS keeps it.
type group struct {
	Fingerprint string          `json:"fingerprint"`
	Kind        string          `json:"kind"`
	Class       string          `json:"class"`
	Reason      string          `json:"reason"`
	Error       string          `json:"error"`
	Count       uint64          `json:"count"`
	First       time.Time       `json:"first"`
	Last        time.Time       `json:"last"`
	Example     Example         `json:"example"`
	Told        map[string]told `json:"told"` // by channel

	revision uint64    // of its entry; 0 while it has none
	dirty    bool      // the entry is older
	seen     time.Time // when the first death was seen here; zero when it comes from the bucket
}

// told is the last alert that a channel took.
type told struct {
	At    time.Time `json:"at"`
	Count uint64    `json:"count"` // of the group then
}

const (
	maxGroups = 1000 // in memory; the bucket has more room
	maxNew    = 20   // new kinds in one interval that are told apart: beyond it is noise, and a storm of mails
	groupKeys = "group."
)

// alerter counts deaths by kind and tells people.
type alerter struct {
	*run

	kv jetstream.KeyValue

	mu     sync.Mutex
	groups map[string]*group
	fresh  []time.Time // when the newest kinds came, at most maxNew
}

// newAlerter reads what people were told of.
func (r *run) newAlerter(ctx context.Context, kv jetstream.KeyValue) (*alerter, error) {
	a := &alerter{run: r, kv: kv, groups: map[string]*group{}}
	ctx, cancel := context.WithTimeout(ctx, 4*tryLimit)
	defer cancel()
	w, err := kv.Watch(ctx, groupKeys+"*", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("read bucket %s: %w", alertsBucket, err)
	}
	for e, err := range stored.Entries(ctx, w) {
		if err != nil {
			return nil, fmt.Errorf("read bucket %s: %w", alertsBucket, err)
		}
		a.load(e)
	}
	return a, nil
}

// load takes a group from its entry. One that cannot be read counts as new.
func (a *alerter) load(e jetstream.KeyValueEntry) *group {
	g := &group{}
	if json.Unmarshal(e.Value(), g) != nil || groupKeys+g.Fingerprint != e.Key() {
		return nil
	}
	g.revision = e.Revision()
	a.makeRoom()
	a.groups[g.Fingerprint] = g
	return g
}

// makeRoom forgets the group that had no death for the longest time, when there
// are too many. What the bucket has of it is read again when it is needed.
func (a *alerter) makeRoom() {
	if len(a.groups) < maxGroups {
		return
	}
	var oldest *group
	for _, g := range a.groups {
		if !g.dirty && (oldest == nil || g.Last.Before(oldest.Last)) {
			oldest = g
		}
	}
	if oldest != nil {
		delete(a.groups, oldest.Fingerprint)
	}
}

// find returns the group of a letter: known here, known to the bucket, or new.
// a.mu is not held: only watch calls it, and only watch adds groups.
func (a *alerter) find(ctx context.Context, l *deadletter.Letter, now time.Time) (*group, error) {
	fp := deadletter.Fingerprint(l)
	if g := a.known(fp); g != nil {
		return g, nil
	}
	g, err := a.stored(ctx, fp)
	if g != nil || err != nil {
		return g, err
	}
	if a.tooMany(now) {
		fp = other
		if g := a.known(fp); g != nil {
			return g, nil
		}
		if g, err := a.stored(ctx, fp); g != nil || err != nil {
			return g, err
		}
	}
	g = &group{Fingerprint: fp, seen: now, Told: map[string]told{}}
	if fp != other {
		g.Kind, g.Class, g.Reason = l.Subject.Kind(), string(l.Subject.Class), string(l.Reason)
	}
	a.mu.Lock()
	a.makeRoom()
	a.groups[fp] = g
	a.mu.Unlock()
	return g, nil
}

func (a *alerter) known(fp string) *group {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.groups[fp]
}

func (a *alerter) stored(ctx context.Context, fp string) (*group, error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	e, err := a.kv.Get(ctx, groupKeys+fp)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("read bucket %s: %w", alertsBucket, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.load(e), nil
}

// tooMany reports whether so many kinds were new within the interval that one
// more is not told by itself, and else counts it.
func (a *alerter) tooMany(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.fresh) > 0 && now.Sub(a.fresh[0]) >= a.config.Interval {
		a.fresh = a.fresh[1:]
	}
	if len(a.fresh) >= maxNew {
		return true
	}
	a.fresh = append(a.fresh, now)
	return false
}

// count adds one death to g.
func (a *alerter) count(g *group, l *deadletter.Letter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g.Count++
	if g.First.IsZero() || l.StoredAt.Before(g.First) {
		g.First = l.StoredAt
	}
	if !l.StoredAt.Before(g.Last) {
		g.Last, g.Error = l.StoredAt, oneLine(l.LastError())
		g.Example = Example{ID: oneLine(l.ID), Sequence: l.Sequence}
		if sc := telemetry.ParseTraceparent(telemetry.Carrier(l.Header).Get("traceparent")); sc.IsValid() {
			g.Example.Trace = sc.TraceID().String()
		}
	}
	g.dirty = true
}

// save writes what has changed into the bucket. It returns errDeposed when
// another process has done so.
func (a *alerter) save(ctx context.Context) error {
	type entry struct {
		group    *group
		revision uint64
		value    []byte
	}
	var changed []entry
	a.mu.Lock()
	a.metrics.groups.Store(int64(len(a.groups)))
	for _, g := range a.groups {
		if !g.dirty {
			continue
		}
		value, err := json.Marshal(g)
		if err != nil {
			a.mu.Unlock()
			return err
		}
		g.dirty = false
		changed = append(changed, entry{g, g.revision, value})
	}
	a.mu.Unlock()
	var errs []error
	for _, e := range changed {
		revision, err := a.put(ctx, groupKeys+e.group.Fingerprint, e.value, e.revision)
		a.mu.Lock()
		if err == nil {
			e.group.revision = revision
		} else {
			e.group.dirty = true
			errs = append(errs, err)
		}
		a.mu.Unlock()
		if errors.Is(err, errDeposed) {
			return err
		}
	}
	return errors.Join(errs...)
}

func (a *alerter) put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	revision, err := a.kv.Update(ctx, key, value, revision)
	if conflict(err) {
		// By another leader, or by this one in a write whose answer was lost: the
		// next leader reads what there is.
		return 0, errDeposed
	}
	if err != nil {
		return 0, fmt.Errorf("write bucket %s: %w", alertsBucket, err)
	}
	return revision, nil
}
