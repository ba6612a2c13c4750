package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams/backlog"
)

const (
	bodiesAsked  = 20 // names that are looked up in BODIES
	bodiesStream = "OBJ_" + task.BodiesBucket
)

// missingBody is a task whose body is not in BODIES.
type missingBody struct{ task backlog.Task }

// readBodies looks up the bodies of some of the tasks that were seen.
func (s *snapshot) readBodies(ctx context.Context, js jetstream.JetStream) {
	if s.stream(bodiesStream) == nil {
		return
	}
	all := slices.Concat(s.dead.tasks, s.timers.tasks, s.due.tasks)
	for _, l := range s.lanes {
		all = append(append(all, l.waiting.tasks...), l.held.tasks...)
	}
	ctx, done := s.asker.limit(ctx, askLimit, "$JS.API.DIRECT.GET."+bodiesStream+".>", "$JS.API.STREAM.MSG.GET."+bodiesStream)
	defer done()
	asked := map[string]bool{}
	var store jetstream.ObjectStore
	for _, t := range all {
		if t.Ref == "" || asked[t.Ref] || len(t.Ref) > maxRef {
			continue
		}
		if len(asked) == bodiesAsked {
			break
		}
		asked[t.Ref] = true
		var err error
		if store == nil {
			if store, err = js.ObjectStore(ctx, task.BodiesBucket); err != nil {
				s.bodiesErr = why(ctx, err)
				return
			}
		}
		_, err = store.GetInfo(ctx, t.Ref)
		switch {
		case errors.Is(err, jetstream.ErrObjectNotFound):
			s.bodies = append(s.bodies, missingBody{t})
		case err != nil:
			s.bodiesErr = why(ctx, err)
			return
		}
		s.bodiesLooked++
	}
}

const maxRef = 1 << 10 // bytes: no body has a longer name, and the broker closes the connection on a subject of 4 KiB

// lookBodies is whether bodies are where their tasks say.
func lookBodies(s *snapshot) ([]Finding, Check) {
	info := s.stream(bodiesStream)
	if info == nil {
		return nil, skip("BODIES could not be read")
	}
	text := fmt.Sprintf("%s in BODIES, %d looked up", size(info.State.Bytes), s.bodiesLooked)
	if len(s.bodies) == 0 {
		return nil, Check{Text: text}
	}
	t := s.bodies[0].task
	return []Finding{find("body-missing", "bucket BODIES", "bodies of tasks are gone from BODIES", uint64(len(s.bodies))).
		seen(fmt.Sprintf("%d of %d looked up, one is %q of %s %s in %s", len(s.bodies), s.bodiesLooked, plain(t.Ref), t.Subject.Kind(), plain(t.ID), t.Stored.Stream)).
		follows("Such a task is dead-lettered as undecodable when it runs: it cannot be run again without its body.").
		remedy("drover tasks show "+quoted(t.ID), "restore BODIES from a backup, or publish the tasks anew; then see who deletes from it: nats object info BODIES")}, Check{Text: text}
}
