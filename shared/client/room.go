package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/task"
)

// FullError is what a refused publish returns when there is no room for it. It
// wraps [ErrFull], and says how full the stream is when the connection may read
// that. The figures are at most a second old when the publish is refused, and
// shared by all publishes of a [Client].
type FullError struct {
	Stream string // that has no room, or whose account or disk has none; "" when it is not known
	Reason string // in the broker's words

	// Limit says what is full instead of the stream: [ErrAccountFull] or
	// [ErrBrokerFull]. It is nil when the stream is, and otherwise the error wraps it.
	Limit error

	// What the stream holds, and may hold: 0 means without limit. All are 0 when
	// Stream could not be read, or is not what is full.
	Messages    uint64
	MaxMessages int64
	Bytes       uint64
	MaxBytes    int64

	Rate float64       // tasks that were worked off in a second, seen over Over
	Over time.Duration // 0 when Rate is not known yet: it takes two refusals a second apart

	// RetryAfter is when to try again: by then as much is worked off as this
	// publish needs, if no one else takes the room, at least 100 ms and at most a
	// minute. While Rate is not known it is 1 s, and 10 s when nothing is worked off
	// or it is not the stream that is full.
	RetryAfter time.Duration
}

const (
	lookEvery    = time.Second // at how full a stream is, whoever is refused
	lookStale    = time.Minute // after which an earlier look says nothing about now
	leastRetry   = 100 * time.Millisecond
	mostRetry    = time.Minute
	blindRetry   = time.Second
	stuckRetry   = 10 * time.Second
	kib, mib     = 1 << 10, 1 << 20
	gib          = 1 << 30
	perMessage   = 32 // bytes that a stream adds to a message, at most
	bucketStart  = "$O."
	bucketStream = "OBJ_"
)

// Unwrap returns [ErrFull], and Limit when that is set.
func (e *FullError) Unwrap() []error {
	if e.Limit != nil {
		return []error{ErrFull, e.Limit}
	}
	return []error{ErrFull}
}

// Error says how full, and when to try again, as far as it is known.
func (e *FullError) Error() string {
	var b strings.Builder
	b.WriteString(cmp.Or(e.Limit, ErrFull).Error())
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	if e.Messages > 0 || e.Bytes > 0 || e.MaxBytes > 0 || e.MaxMessages > 0 {
		fmt.Fprintf(&b, ": %s holds %d", e.Stream, e.Messages)
		if e.MaxMessages > 0 {
			fmt.Fprintf(&b, " of %d", e.MaxMessages)
		}
		b.WriteString(" " + e.noun() + ", " + size10(e.Bytes))
		if e.MaxBytes > 0 {
			b.WriteString(" of " + size10(uint64(e.MaxBytes)))
		}
	}
	switch {
	case errors.Is(e.Limit, ErrAccountFull):
		b.WriteString(": dead letters and other classes count too: make room or raise max_file of the account")
	case e.Limit != nil:
		b.WriteString(": make room on its disk and raise max_file_store in its configuration")
	case e.Over > 0 && e.Rate > 0:
		fmt.Fprintf(&b, ", and %.3g a second are worked off", e.Rate)
	case e.Over > 0:
		fmt.Fprintf(&b, ", and none was worked off in %v", e.Over.Round(100*time.Millisecond))
	}
	fmt.Fprintf(&b, "; try again in %v", e.RetryAfter.Round(10*time.Millisecond))
	return b.String()
}

// noun is what the stream holds.
func (e *FullError) noun() string {
	if strings.HasPrefix(e.Stream, bucketStream) {
		return "parts of bodies"
	}
	return "tasks"
}

// size10 is n bytes to the tenth of a unit.
func size10(n uint64) string {
	switch {
	case n >= gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= mib:
		return fmt.Sprintf("%.1f MiB", float64(n)/mib)
	case n >= kib:
		return fmt.Sprintf("%.1f KiB", float64(n)/kib)
	}
	return fmt.Sprintf("%d B", n)
}

// level is how full a stream was at a time.
type level struct {
	at          time.Time
	messages    uint64
	maxMessages int64
	bytes       uint64
	maxBytes    int64
	removed     uint64 // since the stream was made: what is worked off, whatever is put in meanwhile
}

// gauge knows how full one stream is. Those who are refused at once look once.
type gauge struct {
	mu        sync.Mutex
	now, then level         // the last look and the one before
	asked     time.Time     // when the last look began
	looking   chan struct{} // closed when it is over; nil when none is under way
	blind     bool          // this connection may not look
}

// full fills in what is known of why m was refused for want of room.
func (c *Client) full(ctx context.Context, m *nats.Msg, err error) *FullError {
	e, ok := errors.AsType[*FullError](err)
	if !ok {
		e = &FullError{Reason: err.Error()}
	}
	e.Stream, e.RetryAfter = streamOf(m.Subject), blindRetry
	if e.Limit != nil { // what is worked off in one stream says little
		e.RetryAfter = stuckRetry
		return e
	}
	if e.Stream == "" {
		return e
	}
	now, then := c.gauge(e.Stream).look(ctx, c, e.Stream)
	if now.at.IsZero() {
		return e
	}
	e.Messages, e.MaxMessages, e.Bytes, e.MaxBytes = now.messages, now.maxMessages, now.bytes, now.maxBytes
	if then.at.IsZero() || now.at.Sub(then.at) > lookStale {
		return e
	}
	e.Over = now.at.Sub(then.at)
	e.Rate = float64(now.removed-then.removed) / e.Over.Seconds()
	if e.Rate <= 0 {
		e.RetryAfter = stuckRetry
		return e
	}
	need := 1.0 // tasks to be worked off before there is room
	if over := int64(now.bytes) + int64(size(m)+perMessage+len(m.Subject)) - now.maxBytes; now.maxBytes > 0 && over > 0 && now.messages > 0 {
		need = max(need, float64(over)*float64(now.messages)/float64(now.bytes))
	}
	e.RetryAfter = min(max(time.Duration(need/e.Rate*float64(time.Second)), leastRetry), mostRetry)
	return e
}

// streamOf is the stream that takes a subject, as far as its name says so.
func streamOf(subject string) string {
	if bucket, ok := strings.CutPrefix(subject, bucketStart); ok {
		bucket, _, _ = strings.Cut(bucket, ".")
		return bucketStream + bucket
	}
	if class, ok := strings.CutPrefix(subject, "tasks."); ok {
		class, _, _ = strings.Cut(class, ".")
		return task.Class(class).Stream()
	}
	return ""
}

func (c *Client) gauge(stream string) *gauge {
	g, _ := c.gauges.LoadOrStore(stream, &gauge{}) // as many as there are streams that were full
	return g.(*gauge)
}

// look returns how full the stream is and was, and asks the broker if no one has
// in the last second.
func (g *gauge) look(ctx context.Context, c *Client, stream string) (now, then level) {
	g.mu.Lock()
	switch {
	case g.blind || g.looking == nil && time.Since(g.asked) < lookEvery:
		defer g.mu.Unlock()
		return g.now, g.then
	case g.looking != nil:
		looking, known := g.looking, !g.now.at.IsZero()
		g.mu.Unlock()
		if !known { // nothing to go by yet
			select {
			case <-looking:
			case <-ctx.Done():
			}
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.now, g.then
	}
	looking := make(chan struct{})
	g.looking, g.asked = looking, time.Now()
	g.mu.Unlock()
	l, blind := c.ask(ctx, stream)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.looking, g.blind = nil, blind
	close(looking)
	if !l.at.IsZero() {
		g.now, g.then = l, g.now
		if l.removed < g.then.removed { // the stream was made anew
			g.then = level{}
		}
	}
	return g.now, g.then
}

// ask reads how full the stream is. A zero level means that it could not; blind
// that there is no point in asking again.
func (c *Client) ask(ctx context.Context, stream string) (l level, blind bool) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	complaint := c.nc.LastError()
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return level{}, denied(c.nc, complaint, broker.API(c.js, "STREAM.INFO."+stream)) != nil || errors.Is(err, jetstream.ErrStreamNotFound)
	}
	info := s.CachedInfo()
	return level{
		at:       time.Now(),
		messages: info.State.Msgs, maxMessages: max(info.Config.MaxMsgs, 0),
		bytes: info.State.Bytes, maxBytes: max(info.Config.MaxBytes, 0),
		removed: info.State.LastSeq - min(info.State.Msgs, info.State.LastSeq),
	}, false
}

// patch is how long a publish still waits for room.
type patch struct {
	limit time.Duration // 0: not at all
	until time.Time     // zero before the first refusal
	pause time.Duration // before the next try
}

const (
	firstRoomPause   = 50 * time.Millisecond
	longestRoomPause = 2 * time.Second // whatever a refusal suggests: others may leave
)

// next is how long to wait before the next try, and whether there is to be one.
func (p *patch) next(now time.Time, full *FullError) (time.Duration, bool) {
	if p.limit <= 0 {
		return 0, false
	}
	if p.until.IsZero() {
		p.until = now.Add(p.limit)
	}
	if !now.Before(p.until) {
		return 0, false
	}
	p.pause = min(max(2*p.pause, firstRoomPause), longestRoomPause)
	wait := jitter(max(p.pause, min(full.RetryAfter, longestRoomPause)))
	if full.Over == 0 { // the suggestion is none
		wait = jitter(p.pause)
	}
	return min(wait, p.until.Sub(now)), true
}

// gaveUp is the error of a publish that has waited for room in vain.
func (p *patch) gaveUp(full *FullError) error {
	if p.until.IsZero() {
		return full
	}
	return fmt.Errorf("waited %v for room: %w", p.limit, full)
}

// waitForRoom waits until it is time to try m again. It returns the error of the
// publish when there shall be no other try.
func (c *Client) waitForRoom(ctx context.Context, m *message, full *FullError) error {
	now := time.Now()
	wait, ok := m.room.next(now, full)
	if !ok || m.expired(now) {
		return m.room.gaveUp(full)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w, while it waited for room: %w", cause(ctx), full)
	}
}
