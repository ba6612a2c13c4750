package circuit

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/task"
)

const (
	tellEvery = 100 * time.Millisecond // at most,
	tellBurst = 10                     // but so many at once: a destination that dies is told of as it is met
	tellBytes = 64 << 10               // of one message, about
)

// tallies is what one process tells the others.
type tallies struct {
	From string          `json:"from"`
	Of   []breaker.Tally `json:"of"`
}

// exchange tells the other processes what failed here, and hears it of them, until
// ctx is done. Successes alone are told once a second: they only weigh against
// failures.
func (b *Breakers) exchange(ctx context.Context) {
	nc := b.nc
	before, subject := nc.LastError(), task.BreakersSubject+b.service
	sub, err := nc.Subscribe(subject, func(m *nats.Msg) { b.hear(m.Data) })
	if err != nil {
		return // the connection is closed for good
	}
	defer func() { _ = sub.Unsubscribe() }() // the same
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	seldom := rate.NewLimiter(rate.Every(tellEvery), tellBurst)
	for ctx.Err() == nil {
		select {
		case <-b.failed:
			_ = seldom.Wait(ctx) // it ends with ctx
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if d := broker.DeniedSince(nc, before); d != nil && d.Subject == subject {
			b.log.WarnContext(ctx, "failures are not counted over the fleet: each process counts its own", slog.Any("error", d))
			return
		}
		b.tell(nc, subject)
	}
}

// tell publishes what is not told yet. What cannot be sent now is dropped: it would
// count as new whenever it came.
func (b *Breakers) tell(nc *nats.Conn, subject string) {
	of := b.untold()
	for len(of) > 0 && nc.IsConnected() {
		n, size := 0, 0
		for n < len(of) && size < tellBytes {
			size += len(of[n].Destination) + len(of[n].Why) + 100
			n++
		}
		data, err := json.Marshal(tallies{From: b.self, Of: of[:n]})
		if err != nil {
			return // strings and numbers: it does not come to this
		}
		_ = nc.Publish(subject, data) // not connected any more
		of = of[n:]
	}
}

func (b *Breakers) untold() []breaker.Tally {
	b.mu.Lock()
	defer b.mu.Unlock()
	var of []breaker.Tally
	for _, e := range b.all {
		if t, ok := e.Tell(e.policy); ok {
			of = append(of, t)
		}
	}
	return of
}

// unknown is the policy of a destination that this process has not called yet: others
// decide.
var unknown = breaker.Policy{Failures: math.MaxInt}

// hear takes what another process counted. What cannot be read is not counted.
func (b *Breakers) hear(data []byte) {
	var said tallies
	if json.Unmarshal(data, &said) != nil || said.From == b.self {
		return
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range said.Of {
		e := b.all[t.Destination]
		if e == nil {
			if t.Failures == 0 {
				continue // a window begins with its first failure
			}
			e = b.entry(t.Destination)
			e.policy = unknown
			e.policy.Window = max(0, t.Window)
		}
		if e.Hear(e.policy, t, now) {
			b.turned(e)
		}
	}
}
