package doctor

import (
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/streams/backlog"
)

// lookUnseen is what could not be looked at, and why.
func lookUnseen(s *snapshot) ([]Finding, Check) {
	var denied, failed []string
	silent := slices.ContainsFunc(s.streams, func(st streamState) bool { return isSilent(st.err) })
	note := func(what string, err error) {
		switch {
		case err == nil, missing(err), errors.Is(err, backlog.ErrNoStream):
		case silent && isSilent(err): // stream-silent says it of all
		case errors.Is(err, errDenied):
			denied = append(denied, what)
		default:
			failed = append(failed, what+" ("+plain(err.Error())+")")
		}
	}
	note("account info", s.accountErr)
	for _, st := range s.streams {
		note("stream "+st.name, st.err)
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
			remedy("run it with an operator's credentials: drover doctor --nkey drover.nk, or --creds FILE")
	}
	if len(failed) > 0 {
		f = f.seen("no answer: " + head(failed, 6)).remedy("drover doctor --timeout 30s")
	}
	return []Finding{f}, Check{Text: fmt.Sprintf("%s not allowed, %d without an answer", some(uint64(len(denied)), "thing", "things"), len(failed))}
}

func isSilent(err error) bool {
	if errors.Is(err, errSilent) || errors.Is(err, errLeaderless) {
		return true
	}
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && e.Code == 503
}
