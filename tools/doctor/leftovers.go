package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams/backlog"
)

const (
	stuckAfter   = 30 * time.Second // past its time that a timer is stuck: after a restart the broker takes 2 s
	bodiesAsked  = 20               // names that are looked up in BODIES
	bodiesStream = "OBJ_" + task.BodiesBucket
)

// lookTimers is whether timers fire, and whether what they fire to is served.
func lookTimers(s *snapshot) ([]Finding, Check) {
	if s.stream(task.RetryStream) == nil {
		return nil, skip("RETRY could not be read")
	}
	var out []Finding
	var stuck []backlog.Task
	for _, t := range s.timers.tasks {
		if !t.DueAt.IsZero() && s.now.Sub(t.DueAt) > stuckAfter {
			stuck = append(stuck, t)
		}
	}
	if n := len(stuck); n > 0 {
		first := slices.MinFunc(stuck, func(a, b backlog.Task) int { return a.DueAt.Compare(b.DueAt) })
		out = append(out, find("timers-stuck", "stream RETRY", "timers of retries do not fire", uint64(n)).
			seen(fmt.Sprintf("%d are past their time, the first (%s %s) by %v (RETRY, %v looked at)", n, first.Subject.Kind(), plain(first.ID), s.now.Sub(first.DueAt).Round(time.Second), s.timers)).
			follows("These retries do not run.").
			remedy("drover streams plan   # RETRY must have schedules", "nats stream cluster step-down RETRY   # on a cluster: another leader; on one node restart nats-server"))
	}
	if f, ok := s.strays(); ok {
		out = append(out, f)
	}
	return out, Check{Text: fmt.Sprintf("%s, %v looked at; %s due", some(s.timers.total, "timer", "timers"), s.timers, some(s.due.total, "retry is", "retries are"))}
}

// strays are tasks in RETRY that no consumer of the fleet takes.
func (s *snapshot) strays() (Finding, bool) {
	served := map[string]bool{}
	for _, c := range s.topology.Consumers {
		served[string(c.Class)+"/"+c.Service] = true
	}
	n := map[string]int{}
	for _, t := range slices.Concat(s.timers.tasks, s.due.tasks) {
		if at := string(t.Subject.Class) + "/" + t.Subject.Service; !served[at] {
			n[at]++
		}
	}
	if len(n) == 0 {
		return Finding{}, false
	}
	var names []string
	total := 0
	for at, k := range n {
		names = append(names, fmt.Sprintf("%d of %s", k, plain(at)))
		total += k
	}
	slices.Sort(names)
	return find("stray", "stream RETRY", "retries wait for services or classes that the fleet file does not have", uint64(total)).
		seen(head(names, 5)+fmt.Sprintf(" (RETRY, %v of timers and %v of due ones looked at)", s.timers, s.due)).
		follows("Nobody runs them.").
		remedy("put the service or class back into the fleet file, then: drover streams apply", "drover tasks ls --state due"), true
}

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

// lookAdvisories is whether the broker had to give tasks up.
func lookAdvisories(s *snapshot) ([]Finding, Check) {
	info := s.stream(task.AdvisoryStream)
	if info == nil {
		return nil, skip("ADVISORIES could not be read")
	}
	n := info.State.Msgs
	if n == 0 {
		return nil, Check{Text: "the broker has given up no task"}
	}
	return []Finding{find("given-up", "stream ADVISORIES", "the broker has given up "+tasks(n)+", and they are still in their streams", n).
		seen(fmt.Sprintf("%d advisories, the last %s (ADVISORIES)", n, info.State.LastTime.UTC().Format(time.RFC3339))).
		follows("Nobody runs these tasks and no dead letter tells of them.").
		remedy("run the deadletter service: it moves them to DEAD", "drover tasks ls --state held   # those that stay there")}, Check{Text: some(n, "advisory", "advisories")}
}

// lookUnseen is what could not be looked at, and why.
func lookUnseen(s *snapshot) ([]Finding, Check) {
	var denied, failed []string
	note := func(what string, err error) {
		switch {
		case err == nil, missing(err), errors.Is(err, backlog.ErrNoStream):
		case errors.Is(err, errDenied):
			denied = append(denied, what)
		default:
			failed = append(failed, what+" ("+plain(err.Error())+")")
		}
	}
	note("account info", s.accountErr)
	for _, st := range s.streams {
		if !isSilent(st.err) { // which is a finding of its own
			note("stream "+st.name, st.err)
		}
	}
	for _, l := range s.lanes {
		note(l.source(), l.err)
		note("tasks of "+l.name(), errors.Join(l.held.err, l.waiting.err))
	}
	note("differences from the fleet file", s.planErr)
	note("dead letters", s.dead.err)
	note("timers", s.timers.err)
	note("due retries", s.due.err)
	note("bodies", s.bodiesErr)
	note("bucket FLEET", s.presence.err)
	if len(denied)+len(failed) == 0 {
		return nil, Check{Text: "everything that was asked for was answered"}
	}
	f := find("not-seen", s.url, "not everything could be looked at", uint64(len(denied)+len(failed))).
		follows("What was not looked at may be broken or not.")
	if len(denied) > 0 {
		f = f.seen("these credentials may not read: " + head(denied, 6)).
			remedy("run it with an operator's credentials: drover doctor --creds FILE")
	}
	if len(failed) > 0 {
		f = f.seen("no answer: " + head(failed, 6)).remedy("drover doctor --timeout 30s")
	}
	return []Finding{f}, Check{Text: fmt.Sprintf("%s not allowed, %d without an answer", some(uint64(len(denied)), "thing", "things"), len(failed))}
}

func isSilent(err error) bool {
	if errors.Is(err, errSilent) {
		return true
	}
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && e.Code == 503
}
