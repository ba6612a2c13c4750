package permit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/semaphore"
	"github.com/droverhq/drover/shared/telemetry"
)

const (
	conflicts = 8               // in a row
	tellAgain = time.Minute     // that the bucket is out of reach
	lastLimit = 2 * time.Second // for giving up at the end
)

// Run leases permits until ctx is done, and then gives them up, for at most 2 s:
// those that are still in use, because what they are for does not end, only when
// their lease ends. It can be called once.
func (p *Permits) Run(ctx context.Context) {
	defer p.meters.close()
	var wg sync.WaitGroup
	wg.Go(func() { p.expire(ctx) })
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	var told time.Time
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-p.work:
		case <-ctx.Done():
			continue
		}
		told = p.report(ctx, p.look(ctx), told)
	}
	wg.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLimit)
	defer cancel()
	p.mu.Lock()
	for _, e := range p.entries {
		e.Close()
		e.tried = time.Time{}
	}
	p.mu.Unlock()
	_ = p.look(last) // what cannot be given up expires
}

// expire looks at the clock: a lease that has run out is lost at once, whatever the
// broker is busy with.
func (p *Permits) expire(ctx context.Context) {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		// The monotonic clock stands still while a machine is suspended; those of the
		// others do not.
		slept := now.Round(0).Sub(last.Round(0)) - now.Sub(last)
		last = now
		p.lapse(ctx, now, slept > p.config.Lease/10)
	}
}

func (p *Permits) lapse(ctx context.Context, now time.Time, slept bool) {
	var lost []*Permit
	p.mu.Lock()
	for _, e := range p.entries {
		if slept {
			e.Lose()
		}
		if !e.Lapsed(now) || len(e.out) == 0 {
			continue
		}
		p.log.WarnContext(ctx, "the lease of permits has run out: the tasks that use the resource are cancelled",
			slog.String(telemetry.TaskService, p.config.Service), slog.String(telemetry.Resource, e.name), slog.Int("tasks", len(e.out)))
		for t := range e.out {
			if !t.lost {
				t.lost = true
				lost = append(lost, t)
			}
		}
	}
	p.mu.Unlock()
	for _, t := range lost {
		t.lose()
	}
}

// look does what is due: it reads records, and writes what changes in them.
func (p *Permits) look(ctx context.Context) (failed error) {
	for _, e := range p.entries {
		now := time.Now()
		p.mu.Lock()
		due := e.Due(now) && (!e.away || now.Sub(e.tried) >= p.config.Lease/12)
		var waits []*wait
		if due {
			e.tried, waits, e.waits = now, e.waits, nil
		}
		p.mu.Unlock()
		if !due {
			continue
		}
		if err := p.share(ctx, e, waits); err != nil {
			failed = err
		}
	}
	return failed
}

// share looks at the record of one resource, for those who wait for it.
func (p *Permits) share(ctx context.Context, e *entry, waits []*wait) error {
	written, sent, err := p.agree(ctx, e)
	p.compare(ctx, e)
	p.mu.Lock()
	defer p.mu.Unlock()
	e.away = err != nil
	if !sent.IsZero() {
		e.Written(written, sent)
	}
	e.answerAll(waits)
	return err
}

// agree reads the record and writes what is to change in it. sent is zero when
// nothing is, or when the others are busy with it: then it is for the next tick.
func (p *Permits) agree(ctx context.Context, e *entry) (next semaphore.Record, sent time.Time, err error) {
	for range conflicts {
		var r semaphore.Record
		seq, err := p.bucket.Get(ctx, key(e.name), &r)
		if err != nil {
			return next, sent, err
		}
		p.mu.Lock()
		next, write := e.Next(r, time.Now())
		p.mu.Unlock()
		if !write {
			return next, sent, nil
		}
		at := time.Now()
		switch _, err := p.bucket.Put(ctx, key(e.name), next, keepFor, seq); {
		case err == nil:
			return next, at, nil
		case !errors.Is(err, record.ErrConflict):
			return next, sent, err
		}
	}
	return next, sent, nil
}

// compare tells, once, of a process that was built with a smaller cap.
func (p *Permits) compare(ctx context.Context, e *entry) {
	p.mu.Lock()
	least := e.State().Cap
	news := least < e.told
	e.told = min(e.told, least)
	if least == e.cap {
		e.told = e.cap
	}
	p.mu.Unlock()
	if news {
		p.log.WarnContext(ctx, "processes disagree about a cap: the smaller one holds as long as they use the resource",
			slog.String(telemetry.TaskService, p.config.Service), slog.String(telemetry.Resource, e.name),
			slog.Int("here", e.cap), slog.Int("smallest", least))
	}
}

// report tells when permits can be leased no more, and when they can again; told is
// when it last did.
func (p *Permits) report(ctx context.Context, failed error, told time.Time) time.Time {
	service := slog.String(telemetry.TaskService, p.config.Service)
	p.mu.Lock()
	was, away := p.err, false
	for _, e := range p.entries {
		away = away || e.away
	}
	switch {
	case !away:
		p.err = nil
	case failed != nil && ctx.Err() == nil:
		p.err = fmt.Errorf("lease permits: %w", failed)
	}
	is := p.err
	p.mu.Unlock()
	switch {
	case is != nil && (was == nil || time.Since(told) >= tellAgain):
		p.log.WarnContext(ctx, "permits cannot be leased: tasks that need one wait once the leases have run out", service, slog.Any("error", is))
		return time.Now()
	case is == nil && was != nil:
		p.log.InfoContext(ctx, "permits can be leased again", service)
	}
	return told
}
