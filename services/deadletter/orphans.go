package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

const (
	maxOrphans  = 5000    // looked at in one sweep, the oldest first
	maxReferees = 200_000 // messages looked through for references, in one sweep
	maxNamed    = 5       // in a log line
)

// body is one object of BODIES.
type body struct {
	bytes uint64
	at    time.Time
}

// orphans finds bodies that no task refers to: their publisher ended before it
// published the task, or whoever ended the task could not remove them. They are
// counted and named in the log. They are removed only when the configuration says
// at which age: nothing but an age tells a body whose task is still to be
// published, by whatever client, from one that was forgotten.
//
// Tasks move while they are looked through, from TASKS to RETRY to DEAD, and a
// redrive back to TASKS; so only what two sweeps in a row found nowhere is an
// orphan.
func (s *sweeper) orphans(ctx context.Context) error {
	found, err := s.oldBodies(ctx)
	if err != nil {
		return err
	}
	complete, err := s.strikeOut(ctx, found)
	if err != nil {
		return err
	}
	if !complete {
		s.suspect = nil
		s.log.InfoContext(ctx, "there are too many messages to look through for references to old bodies; it is tried again later",
			slog.Int("limit", maxReferees), slog.Int("bodies", len(found)))
		return nil
	}
	before := s.suspect
	s.suspect = maps.Clone(found)
	maps.DeleteFunc(found, func(name string, _ body) bool { _, was := before[name]; return !was })
	s.metrics.orphans.Store(int64(len(found)))
	if err := s.removeOrphans(ctx, found); err != nil {
		return err
	}
	if len(found) != s.named && len(found) > 0 {
		var bytes uint64
		for _, b := range found {
			bytes += b.bytes
		}
		names := slices.Sorted(maps.Keys(found))
		s.log.WarnContext(ctx, "bodies that no task refers to: look at them with `nats object ls BODIES`; --orphan-remove removes old ones",
			slog.Int("bodies", len(found)), slog.Uint64("bytes", bytes), slog.Any("names", names[:min(len(names), maxNamed)]))
	}
	s.named = len(found)
	return nil
}

// oldBodies are the bodies that are old enough to be orphans, by name.
func (s *sweeper) oldBodies(ctx context.Context) (map[string]body, error) {
	found := map[string]body{}
	before := time.Now().Add(-s.config.OrphanAge)
	const descriptions = "$O." + task.BodiesBucket + ".M.>"
	err := scan(ctx, s.js, "OBJ_"+task.BodiesBucket, descriptions, 1, func(m *stored.Message) bool {
		var info jetstream.ObjectInfo
		if m.Time.After(before) || len(found) == maxOrphans {
			return false
		}
		if json.Unmarshal(m.Data, &info) == nil && !info.Deleted && info.Name != "" {
			found[info.Name] = body{bytes: info.Size, at: m.Time}
		}
		return true
	})
	return found, err
}

// strikeOut takes away the bodies that a task refers to. complete is false when
// there were too many messages to be sure about the rest.
func (s *sweeper) strikeOut(ctx context.Context, found map[string]body) (complete bool, err error) {
	looked := 0
	for _, stream := range s.referees() {
		if len(found) == 0 {
			break
		}
		err := scan(ctx, s.js, stream, ">", 1, func(m *stored.Message) bool {
			looked++
			delete(found, m.Header.Get(task.HeaderRef))
			return len(found) > 0 && looked < maxReferees
		})
		if err != nil {
			return false, err
		}
	}
	return len(found) == 0 || looked < maxReferees, nil
}

// referees are the streams whose messages refer to bodies, in the order in which
// a task goes through them.
func (s *sweeper) referees() []string {
	var out []string
	for _, c := range s.fleet.Topology().Streams {
		if strings.HasPrefix(c.Name, tasksPrefix) {
			out = append(out, c.Name)
		}
	}
	return append(out, task.RetryStream, task.DeadStream)
}

func (s *sweeper) removeOrphans(ctx context.Context, found map[string]body) error {
	if s.config.OrphanRemove == 0 {
		return nil
	}
	var errs []error
	removed := 0
	for name, b := range found {
		if time.Since(b.at) < s.config.OrphanRemove {
			continue
		}
		if err := bodies.Remove(ctx, s.js, name); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(found, name)
		delete(s.suspect, name)
		removed++
	}
	if removed > 0 {
		s.metrics.removed.Add(ctx, int64(removed))
		s.log.InfoContext(ctx, "bodies that no task referred to are removed", slog.Int("bodies", removed))
	}
	return errors.Join(errs...)
}
