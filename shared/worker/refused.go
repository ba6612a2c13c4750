package worker

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/droverhq/drover/shared/broker"
)

// refusalLasts is how long a worker is not ready after the broker refused it
// something. What it lacks is refused again long before: a pull every 2.5 s, a move
// every 5 s at most, an acknowledgement when the task is back.
const refusalLasts = time.Minute

// refused is the last thing that the worker needs and its credentials do not
// allow. The broker answers such a request with nothing, so without this the worker
// would be silent and seem to be without work.
type refused struct {
	mu         sync.Mutex
	err        *broker.DeniedError
	when       time.Time
	reconnects uint64                  // of the connection then: another login may be allowed more
	told       map[string]bool         // what was logged, by the first tokens of the subject
	unbind     context.CancelCauseFunc // ends the search for consumers; nil when it is over
	asking     map[*request]struct{}   // requests whose answer is waited for
}

// request is one that ends when the broker refuses its subject.
type request struct {
	subject string
	end     context.CancelCauseFunc
}

// hear takes what the broker refuses on the connection, which others may use too.
func (w *Worker) hear(d *broker.DeniedError) {
	if !w.needs(d.Subject) {
		return
	}
	r := &w.refused
	r.mu.Lock()
	r.err, r.when, r.reconnects = d, time.Now(), w.nc.Stats().Reconnects
	if r.unbind != nil {
		r.unbind(d)
	}
	for q := range r.asking {
		if q.subject == d.Subject {
			q.end(d)
		}
	}
	what := strings.Join(strings.SplitN(d.Subject, ".", 5)[:min(4, strings.Count(d.Subject, ".")+1)], ".")
	again := r.told[what]
	if r.told == nil {
		r.told = map[string]bool{}
	}
	if len(r.told) < maxTold {
		r.told[what] = true
	}
	r.mu.Unlock()
	if !again {
		w.log.Error("the worker is not allowed what it needs", slog.Any("error", d))
	}
}

const maxTold = 100 // kinds of refusals that are remembered, so as to log each once

// needs reports whether the worker itself uses this subject. What a handler
// publishes is the handler's business.
func (w *Worker) needs(subject string) bool {
	if subject == w.api("STREAM.NAMES") { // asked by package client, which can do without an answer
		return false
	}
	inbox := w.nc.Opts.InboxPrefix
	if inbox == "" {
		inbox = "_INBOX."
	}
	for _, prefix := range []string{w.api(""), "$JS.ACK.", "retry.", "dead.", strings.TrimSuffix(inbox, ".") + "."} {
		if strings.HasPrefix(subject, prefix) {
			return true
		}
	}
	return false
}

// lacks returns the permission that the worker was found to lack, or nil.
func (w *Worker) lacks() error {
	r := &w.refused
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil || time.Since(r.when) > refusalLasts || r.reconnects != w.nc.Stats().Reconnects {
		return nil
	}
	return r.err
}

// untilRefused is ctx for the search for consumers: it ends with the first refusal.
func (w *Worker) untilRefused(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	w.refused.mu.Lock()
	w.refused.unbind = cancel
	w.refused.mu.Unlock()
	return ctx, func() {
		w.refused.mu.Lock()
		w.refused.unbind = nil
		w.refused.mu.Unlock()
		cancel(nil)
	}
}

// unlessRefused is ctx for a request to subject: it ends when the broker refuses
// that, with a cause for broker.Why.
func (w *Worker) unlessRefused(ctx context.Context, subject string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	q, r := &request{subject, cancel}, &w.refused
	r.mu.Lock()
	if r.asking == nil {
		r.asking = map[*request]struct{}{}
	}
	r.asking[q] = struct{}{}
	r.mu.Unlock()
	return ctx, func() {
		r.mu.Lock()
		delete(r.asking, q)
		r.mu.Unlock()
		cancel(nil)
	}
}
