package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/broker"
)

const (
	patience      = 30 * time.Second // for a context without a deadline
	firstTry      = 2 * time.Second  // for the answer to the first try; doubled for each after it
	longestTry    = 16 * time.Second
	firstPause    = 100 * time.Millisecond // before the second try; doubled for each after it
	longestPause  = time.Second
	electionLimit = 10 * time.Second // an election takes 6 to 8 s
	lookupLimit   = time.Second      // for asking which stream takes a subject
	leaveEvery    = 30 * time.Second // between two changes of the node

	// The broker knows an id for ten minutes in a class's stream, and for two in
	// an object store; clocks and queues take some of that.
	doubtLimit     = 5 * time.Minute
	doubtLimitBody = 80 * time.Second
)

// answer is what the broker says of a message that it has.
type answer struct {
	stream    string
	sequence  uint64
	duplicate bool
}

var (
	errNoAnswer  = errors.New("the broker does not answer")
	errBadAnswer = errors.New("the answer is not a JetStream broker's")
)

// deliver sends m until the broker has answered, or ctx or the patience ends. It
// keeps in m what is known when it returns an error.
func (c *Client) deliver(ctx context.Context, m *message) (answer, error) {
	until := patient(ctx)
	complaint := c.nc.LastError()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if ctx.Err() != nil {
			return answer{}, cause(ctx)
		}
		open := !c.nc.IsClosed()
		a, err := c.try(ctx, m, until)
		f, err := judge(&m.Msg, err)
		switch {
		case f == isStored:
			return a, nil
		case f == isRefused && errors.Is(err, ErrFull):
			if err := c.waitForRoom(ctx, m, c.full(ctx, &m.Msg, err)); err != nil {
				return answer{}, err
			}
			if !m.doubt { // nothing is known of it, as before the first try
				m.tries = 0
			}
			until = patient(ctx) // the broker is there
			pause = firstPause / 2
			continue
		case f == isRefused:
			return answer{}, err
		case f == isOver:
			m.doubt = m.doubt || open && errors.Is(err, nats.ErrConnectionClosed) // it closed before the answer
			return answer{}, err
		case f == isUnknown:
			if err := denied(c.nc, complaint, m.Subject); err != nil {
				return answer{}, err
			}
			m.doubt = true
		case errors.Is(err, nats.ErrNoResponders):
			if err := c.missing(ctx, m); err != nil {
				return answer{}, err
			}
			if m.absent != nil {
				err = m.absent
			}
		}
		if err := c.again(ctx, m, until, pause, err); err != nil {
			return answer{}, err
		}
	}
}

// patient is how long ctx lets a broker be away from now on.
func patient(ctx context.Context) time.Time {
	if d, ok := ctx.Deadline(); ok {
		return d
	}
	return time.Now().Add(patience)
}

// try sends m once and waits for the answer, at most until then.
func (c *Client) try(ctx context.Context, m *message, until time.Time) (answer, error) {
	now := time.Now()
	if m.tries++; m.tries == 1 {
		m.sent = now
	}
	if end := now.Add(tryLimit(m.tries)); end.Before(until) {
		until = end
	}
	tctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	resp, err := c.nc.RequestMsgWithContext(tctx, &m.Msg)
	if err != nil {
		if tctx.Err() != nil && ctx.Err() == nil {
			err = errNoAnswer
		}
		return answer{}, err
	}
	return parse(resp.Data, "")
}

func tryLimit(n int) time.Duration { return min(firstTry<<(min(n, 8)-1), longestTry) }

// again waits before the next try. It returns an error when there shall be none;
// last is the error of the try before.
func (c *Client) again(ctx context.Context, m *message, until time.Time, pause time.Duration, last error) error {
	wait := jitter(pause)
	if end, ok := ctx.Deadline(); ok && errors.Is(last, ErrNoStream) && time.Until(end) <= wait {
		return last // better than ctx's error, and no other try comes before that
	}
	t := time.NewTimer(min(wait, time.Until(until)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	now := time.Now()
	if end, ok := ctx.Deadline(); ok && !now.Before(end) {
		<-ctx.Done() // its timer may be a moment behind
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w, after %d tries: %w", cause(ctx), m.tries, last)
	case m.expired(now) || !now.Before(until):
		return fmt.Errorf("after %d tries in %v: %w", m.tries, now.Sub(m.sent).Round(time.Second), last)
	}
	return nil
}

// expired reports whether m must not be sent again at t, because the broker may
// have stored it and may have forgotten its id.
func (m *message) expired(t time.Time) bool {
	limit := doubtLimit
	if strings.HasPrefix(m.Subject, "$O.") {
		limit = doubtLimitBody
	}
	return m.doubt && t.Sub(m.sent) > limit
}

// jitter keeps publishers that were cut off together from coming back together.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// missing is asked when nobody listens on m's subject. It returns an error
// wrapping [ErrNoStream] if no stream takes the subject, and nil if one does and
// its leader is being elected. A connection that may not ask finds out by waiting
// longer than an election takes, or as long as ctx lets it; one whose question is
// not answered as long goes to another node. What is known when it returns nil is
// in m.absent.
func (c *Client) missing(ctx context.Context, m *message) error {
	if m.silent.IsZero() {
		m.silent = time.Now()
	}
	if !c.noLookup.Load() {
		name, err := c.taker(ctx, m.Subject)
		switch {
		case err == nil:
			m.silent, m.absent = time.Time{}, fmt.Errorf("the stream %s has no leader now: %w", name, nats.ErrNoResponders)
			return nil
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return noStream(m.Subject)
		case errors.Is(err, broker.ErrDenied):
			c.noLookup.Store(true)
		case leaderless(err):
			m.absent = fmt.Errorf("the broker's cluster has no leader now: %w", nats.ErrNoResponders)
			if time.Since(m.silent) > electionLimit {
				c.leave()
			}
			return nil
		}
	}
	m.absent = noLeader(m.Subject, c.noLookup.Load())
	if time.Since(m.silent) > electionLimit {
		return m.absent
	}
	return nil
}

// taker is the stream that takes subject. The error wraps [broker.ErrDenied] when
// this connection may not ask.
func (c *Client) taker(ctx context.Context, subject string) (string, error) {
	complaint, names := c.nc.LastError(), broker.API(c.js, "STREAM.NAMES")
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	if !c.mayAsk.Load() { // a refusal is no answer: do not wait for one
		var release context.CancelFunc
		ctx, release = broker.Guard(ctx, c.nc, func(s string) bool { return s == names })
		defer release()
	}
	name, err := c.js.StreamNameBySubject(ctx, subject)
	if err = broker.Why(ctx, err); errors.Is(err, broker.ErrDenied) {
		return "", err
	}
	if d := broker.DeniedSince(c.nc, complaint); err != nil && d != nil && d.Subject == names {
		return "", d
	}
	c.mayAsk.Store(true)
	return name, err
}

// leaderless reports whether a question to the broker found nobody who leads the
// cluster, as far as its node knows.
func leaderless(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == codeUnavailable || errors.Is(err, context.DeadlineExceeded)
}

// leave goes to another node of the broker, if the connection knows of one. A node
// that is cut off from the others keeps its clients and answers their pings, so
// that nothing else would end the connection.
func (c *Client) leave() {
	now := time.Now().UnixNano()
	before := c.left.Load()
	if len(c.nc.Servers()) > 1 && now-before > int64(leaveEvery) && c.left.CompareAndSwap(before, now) {
		_ = c.nc.ForceReconnect() // it fails when the connection is closed, and the next try says so
	}
}

// parse reads the broker's answer. stream is the one that is expected: naming it
// saves an allocation.
func parse(data []byte, stream string) (answer, error) {
	if a, ok := parsePlain(data, stream); ok {
		return a, nil
	}
	var r struct {
		Error     *jetstream.APIError `json:"error"`
		Stream    string              `json:"stream"`
		Sequence  uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
	}
	switch err := json.Unmarshal(data, &r); {
	case err != nil || r.Error == nil && r.Stream == "":
		return answer{}, errBadAnswer
	case r.Error != nil:
		return answer{}, r.Error
	}
	return answer{r.Stream, r.Sequence, r.Duplicate}, nil
}

// parsePlain reads {"stream":"S","seq":1} and nothing else. encoding/json takes
// 0.6 µs more for it, a tenth of all that BenchmarkPublishAll does, broker included.
func parsePlain(data []byte, stream string) (answer, bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	name, rest, ok2 := bytes.Cut(rest, []byte(`","seq":`))
	digits, ok3 := bytes.CutSuffix(rest, []byte("}"))
	if !ok || !ok2 || !ok3 || bytes.IndexByte(name, '\\') >= 0 || bytes.IndexByte(name, '"') >= 0 {
		return answer{}, false
	}
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return answer{}, false
	}
	if string(name) != stream {
		stream = string(name)
	}
	return answer{stream: stream, sequence: seq}, true
}

// finish turns what became of m into what the caller is told, and ends its span.
func (c *Client) finish(ctx context.Context, m *message, span trace.Span, a answer, err error) (Receipt, error) {
	rc := Receipt{ID: m.id}
	if err = m.told(err); err == nil {
		rc.Stream, rc.Sequence, rc.Duplicate = a.stream, a.sequence, a.duplicate && !m.fresh
	}
	if m.body != nil && (err != nil && !m.doubt || a.duplicate && m.tries == 1) {
		// The task is refused, or the broker has another one under this id.
		if rerr := m.body.Remove(ctx, c.js); err != nil {
			err = errors.Join(err, rerr)
		}
	}
	endSpan(span, m, rc, err)
	return rc, err
}
