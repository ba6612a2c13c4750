package deadletter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const leaderKey = "leader"

// errDeposed ends the work of a leader that could not renew its lead in time, or
// that finds another's.
var errDeposed = errors.New("another process leads")

// lead leads whenever no other process does, until ctx is done. The lead is an
// entry of the bucket ALERTS that its holder writes again and again, each time
// only if it is as the holder left it. Who sees it unchanged for a whole lease
// takes it over. Only the local clock counts, so clocks may differ.
func (r *run) lead(ctx context.Context, kv jetstream.KeyValue) {
	l := &lead{kv: kv, me: rand.Text(), lease: r.config.Lease}
	for ctx.Err() == nil {
		won, err := l.try(ctx)
		if ctx.Err() != nil {
			return
		}
		if news := r.trouble.set("take the lead", err); err != nil && news {
			r.log.WarnContext(ctx, "cannot see who leads; nothing is swept and no alert is raised by this process", slog.Any("error", err))
		}
		if !won {
			sleep(ctx, l.lease/4)
			continue
		}
		r.metrics.leader.Store(1)
		r.log.InfoContext(ctx, "this process leads: it sweeps and raises alerts")
		err = r.whileHeld(ctx, l)
		r.metrics.leader.Store(0)
		if ctx.Err() != nil {
			l.resign(ctx)
			return
		}
		if errors.Is(err, errDeposed) {
			r.log.WarnContext(ctx, "this process does not lead any more", slog.Any("error", err))
		} else if r.trouble.set("lead", err) {
			r.log.WarnContext(ctx, "this process cannot lead; nothing is swept and no alert is raised by it", slog.Any("error", err))
		}
		l.resign(ctx) // if it is still ours, somebody else may have more luck
		sleep(ctx, l.lease/4)
	}
}

// whileHeld does the leader's work for as long as the lead is renewed.
func (r *run) whileHeld(ctx context.Context, l *lead) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { cancel(r.whileLeading(ctx, l.kv)) })
	renewed := time.Now()
	for sleep(ctx, l.lease/4) {
		err := l.renew(ctx)
		switch {
		case err == nil:
			renewed = time.Now()
		case errors.Is(err, errDeposed) || time.Since(renewed) > l.lease*3/4:
			cancel(err)
			return err
		}
	}
	return context.Cause(ctx)
}

// lead is the entry that says who leads.
type lead struct {
	kv    jetstream.KeyValue
	me    string
	lease time.Duration

	revision uint64    // as last seen; ours while we lead
	since    time.Time // when that revision was seen first
}

// try takes the lead if nobody has it, or its holder was silent for a lease.
func (l *lead) try(ctx context.Context) (won bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	e, err := l.kv.Get(ctx, leaderKey)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return l.write(l.kv.Create(ctx, leaderKey, []byte(l.me)))
	case err != nil:
		return false, fmt.Errorf("read who leads: %w", err)
	case e.Revision() != l.revision:
		l.revision, l.since = e.Revision(), time.Now()
		return false, nil
	case time.Since(l.since) < l.lease:
		return false, nil
	}
	return l.write(l.kv.Update(ctx, leaderKey, []byte(l.me), l.revision))
}

func (l *lead) write(revision uint64, err error) (won bool, _ error) {
	switch {
	case err == nil:
		l.revision, l.since = revision, time.Now()
		return true, nil
	case conflict(err):
		return false, nil // somebody else was faster
	}
	return false, fmt.Errorf("take the lead: %w", err)
}

func (l *lead) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(tryLimit, l.lease/4))
	defer cancel()
	revision, err := l.kv.Update(ctx, leaderKey, []byte(l.me), l.revision)
	switch {
	case err == nil:
		l.revision = revision
		return nil
	case conflict(err):
		// Perhaps by ourselves: a renewal whose answer was lost.
		if e, gerr := l.kv.Get(ctx, leaderKey); gerr == nil && string(e.Value()) == l.me {
			l.revision = e.Revision()
			return nil
		}
		return errDeposed
	}
	return fmt.Errorf("renew the lead: %w", err)
}

// resign lets another process lead at once.
func (l *lead) resign(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = l.kv.Purge(ctx, leaderKey, jetstream.LastRevision(l.revision)) // it ends by itself too
	l.revision = 0
}

// conflict reports whether a write was refused because the entry has changed.
func conflict(err error) bool {
	const replicated = 10164 // the same, while another write is on its way
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		return e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || e.ErrorCode == replicated
	}
	return errors.Is(err, jetstream.ErrKeyExists)
}
