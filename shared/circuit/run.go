package circuit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/record"
	"github.com/droverhq/drover/shared/telemetry"
)

const (
	tickEvery   = time.Second
	resyncEvery = 30 * time.Second // a watch can go deaf without a word, when its bucket is made anew
	watchAgain  = time.Second      // after one that could not be made
	lastLimit   = 2 * time.Second  // for what is left to write at the end
	conflicts   = 5                // in a row
)

// Run shares the breakers until ctx is done, and then writes what is not written
// yet, for at most 2 s. It can be called once.
func (b *Breakers) Run(ctx context.Context) {
	defer b.meters.close()
	var wg sync.WaitGroup
	wg.Go(func() { b.watch(ctx) })
	wg.Go(func() { b.exchange(ctx) })
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			b.tick()
		case <-b.work:
		case <-ctx.Done():
		}
		b.write(ctx)
	}
	wg.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLimit)
	defer cancel()
	b.write(last)
}

// tick does what time alone does, and forgets who is well.
func (b *Breakers) tick() {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, e := range b.all {
		if e.Tick(e.policy, now) {
			b.turned(e)
		}
		if !e.pending && !e.claim && e.Idle(e.policy, now) {
			delete(b.all, name)
		}
	}
}

// write brings to the bucket what it does not have yet. When the bucket cannot be
// reached, this process goes on alone, and the rest is tried again at the next tick.
func (b *Breakers) write(ctx context.Context) {
	names := b.waiting()
	if len(names) == 0 {
		return
	}
	var failed error
	for _, name := range names {
		if failed == nil && ctx.Err() == nil {
			failed = b.share(ctx, name)
		}
		if failed != nil {
			b.claimAlone(name)
		}
	}
	b.report(ctx, failed)
}

// waiting are the destinations that something is to be written of.
func (b *Breakers) waiting() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var out []string
	for name, e := range b.all {
		if e.pending || e.claim {
			out = append(out, name)
		}
	}
	return out
}

// share writes the record of one destination, or takes over the one that is there.
func (b *Breakers) share(ctx context.Context, name string) error {
	for range conflicts {
		var has breaker.Record
		seq, err := b.bucket.Get(ctx, key(b.service, name), &has)
		if err != nil {
			return err
		}
		want, wanted := b.wants(name, has, seq)
		if !wanted {
			return nil
		}
		stored, err := put(ctx, b.bucket, b.service, want, seq)
		if errors.Is(err, record.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		b.shared(name, want, stored)
		return nil
	}
	return nil // the others are busy with it: what they say comes by the watch, and the rest at the next tick
}

// wants is what to write over has, if anything.
func (b *Breakers) wants(name string, has breaker.Record, seq uint64) (breaker.Record, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(name)
	now := time.Now()
	base, own := has, false // what is to be gone on from
	if mine := e.Record(); has.State == "" || e.pending && mine.Supersedes(has) {
		base, own = mine, true
	}
	switch {
	case e.claim && base.Claimable(now):
		return base.Claim(b.self, e.policy, now), true
	case e.pending && own:
		return base, true
	}
	e.pending, e.claim = false, false
	if has.State != "" {
		e.adopt(has, seq)
	}
	return breaker.Record{}, false
}

// shared takes note that r is in the bucket.
func (b *Breakers) shared(name string, r breaker.Record, seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(name)
	switch mine := e.Record(); {
	case r.State == breaker.HalfOpen && e.claim:
		b.claimed(e, r)
	case !e.pending: // somebody else's came after it, by the watch
		return
	case mine.At.Equal(r.At) && mine.State == r.State:
		e.pending = false
	}
	e.seq = seq
}

// claimAlone has this process probe without having asked.
func (b *Breakers) claimAlone(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if e := b.entry(name); e.claim && e.Record().Claimable(now) {
		b.claimed(e, e.Record().Claim(b.self, e.policy, now))
	}
}

func (b *Breakers) claimed(e *entry, r breaker.Record) {
	e.claim, e.pending = false, false // what was not written before is over
	e.Claimed(e.policy, r)
	b.meters.turned(breaker.HalfOpen)
	b.log.WarnContext(context.Background(), "breaker is half-open: this process probes",
		slog.String(telemetry.TaskService, b.service), slog.String(telemetry.Destination, r.Destination))
}

// report tells when the bucket can be reached no more, and when it can again.
func (b *Breakers) report(ctx context.Context, err error) {
	switch {
	case err != nil && !b.away && ctx.Err() == nil:
		b.away = true
		b.log.WarnContext(ctx, "breakers cannot be shared: each process goes on with its own", slog.Any("error", err))
	case err == nil && b.away && ctx.Err() == nil:
		b.away = false
		b.log.InfoContext(ctx, "breakers are shared again")
	}
}

// watch takes the records of other processes, until ctx is done.
func (b *Breakers) watch(ctx context.Context) {
	connected := b.nc.StatusChanged(nats.CONNECTED)
	defer b.nc.RemoveStatusListener(connected)
	for ctx.Err() == nil {
		if b.follow(ctx, connected) == nil {
			continue
		}
		t := time.NewTimer(watchAgain)
		select {
		case <-t.C:
		case <-connected:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// follow watches for a while. It returns nil when it is to be called again at once.
func (b *Breakers) follow(ctx context.Context, connected <-chan nats.Status) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.bucket.Watch(ctx, b.service+".*")
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }() // the connection is closed: then so is this
	seen := map[string]bool{}
	again := time.NewTimer(resyncEvery)
	defer again.Stop()
	for {
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return errors.New("the watch has ended")
			case e == nil:
				b.restore(seen)
				seen = nil
			case e.Operation() == jetstream.KeyValuePut:
				b.learn(e, seen)
			}
		case <-again.C:
			return nil
		case <-connected:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// learn takes one record from the watch.
func (b *Breakers) learn(e jetstream.KeyValueEntry, seen map[string]bool) {
	r, err := record.Decode[breaker.Record](b.bucket, e)
	if err != nil {
		return // `drover breakers ls` says so
	}
	if seen != nil {
		seen[r.Destination] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.State == breaker.Closed && b.all[r.Destination] == nil {
		return
	}
	if r.State == breaker.HalfOpen && r.Owner == b.self {
		return // an echo, which may come before the answer to the claim
	}
	en := b.entry(r.Destination)
	if en.pending && !r.Supersedes(en.Record()) {
		return // ours goes over it
	}
	if e.Revision() <= en.seq && !seenAnew(seen) {
		return // an echo, from before what is known
	}
	en.adopt(r, e.Revision())
}

// seenAnew reports whether a record is of the first ones of a watch: the bucket may
// be a new one, with sequences that begin again.
func seenAnew(seen map[string]bool) bool { return seen != nil }

// adopt takes a record of the fleet.
func (e *entry) adopt(r breaker.Record, seq uint64) {
	e.seq = seq
	e.pending = false
	if e.Adopt(r) {
		e.claim = false
	}
}

// restore has what is open and not among the records written anew: somebody lost
// the bucket.
func (b *Breakers) restore(seen map[string]bool) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, e := range b.all {
		if e.State() == breaker.Open && e.seq > 0 && !seen[name] && now.Before(e.Record().Until) {
			e.pending, e.seq = true, 0
			wake(b.work)
		}
	}
}
