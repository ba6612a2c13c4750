package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// nats.go has no batched direct get, and would ask for the stream's info before
// each get or delete, so the requests are made here.

const (
	tryLimit = 5 * time.Second // for the answer to one request
	tries    = 4               // of a request that may be repeated
	pause    = 500 * time.Millisecond
)

// api is the subject of one of the broker's functions for a stream.
func api(js jetstream.JetStream, function, stream string) string {
	prefix := jetstream.DefaultAPIPrefix
	switch o := js.Options(); {
	case o.Domain != "":
		prefix = "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		prefix = strings.TrimSuffix(o.APIPrefix, ".") + "."
	}
	return prefix + function + "." + stream
}

// repeat calls f until it succeeds, fails for good, or has had its tries. f gets
// the time of one request.
func repeat(ctx context.Context, f func(context.Context) error) error {
	for n := 1; ; n++ {
		tctx, cancel := context.WithTimeoutCause(ctx, tryLimit, errNoAnswer)
		err := f(tctx)
		if err != nil && tctx.Err() != nil && ctx.Err() == nil {
			err = errNoAnswer
		}
		cancel()
		if n == tries || !transient(err) || ctx.Err() != nil {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

var errNoAnswer = errors.New("the broker does not answer")

func transient(err error) bool {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		return e.Code == 503 || e.Code == 408 || e.Code == 429
	}
	return errors.Is(err, errNoAnswer) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded)
}

// call makes one request to the leader of a stream.
func call(ctx context.Context, js jetstream.JetStream, function, stream string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	m, err := js.Conn().RequestWithContext(ctx, api(js, function, stream), body)
	if err != nil {
		return err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return fmt.Errorf("the broker's answer: %w", err)
	}
	switch e := failed.Error; {
	case e == nil:
		return json.Unmarshal(m.Data, resp)
	case e.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return ErrNotFound
	case e.ErrorCode == jetstream.JSErrCodeStreamNotFound:
		return ErrNoStream
	default:
		return e
	}
}

// At returns the letter with this sequence in DEAD, as the leader has it. It
// returns an error wrapping [ErrNotFound] or [ErrNoStream].
func At(ctx context.Context, js jetstream.JetStream, sequence uint64) (Letter, error) {
	var l Letter
	err := repeat(ctx, func(ctx context.Context) (err error) {
		l, err = ask(ctx, js, request{Sequence: sequence})
		return err
	})
	if err != nil {
		return Letter{}, fmt.Errorf("get dead letter %d: %w", sequence, err)
	}
	return l, nil
}

// ask gets one letter from the leader.
func ask(ctx context.Context, js jetstream.JetStream, req request) (Letter, error) {
	return askStream(ctx, js, task.DeadStream, req)
}

// askStream gets one message of any stream from its leader. Where it is in a class's
// stream or in RETRY, State is what it says of the task, and the rest as of a letter.
func askStream(ctx context.Context, js jetstream.JetStream, stream string, req request) (Letter, error) {
	var resp struct {
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := call(ctx, js, "STREAM.MSG.GET", stream, req, &resp); err != nil {
		return Letter{}, err
	}
	m := &resp.Message
	var h nats.Header
	if len(m.Header) > 0 {
		var err error
		if h, err = nats.DecodeHeadersMsg(m.Header); err != nil {
			l := newLetter(m.Subject, nil, m.Data, m.Sequence, m.Time)
			l.Problem = errors.Join(fmt.Errorf("%w: %w", task.ErrBadHeader, err), l.Problem)
			return l, nil
		}
	}
	return newLetter(m.Subject, h, m.Data, m.Sequence, m.Time), nil
}

// remove deletes the letter with this sequence, and reports whether it was there.
func remove(ctx context.Context, js jetstream.JetStream, sequence uint64) (was bool, err error) {
	err = repeat(ctx, func(ctx context.Context) error {
		req := map[string]any{"seq": sequence, "no_erase": true}
		var resp struct{}
		err := call(ctx, js, "STREAM.MSG.DELETE", task.DeadStream, req, &resp)
		if was = err == nil; was {
			return nil
		}
		// A letter that is gone has no error code of its own here.
		if _, gone := ask(ctx, js, request{Sequence: sequence}); errors.Is(gone, ErrNotFound) {
			return nil
		}
		return err
	})
	return was && err == nil, err
}

// Headers that the broker adds to what a direct get returns.
const (
	headerSubject  = "Nats-Subject"
	headerSequence = "Nats-Sequence"
	headerTime     = "Nats-Time-Stamp"
	headerStatus   = "Status"
)

// fromDirect is the letter that a direct get returned. The error is not nil when
// m is none.
func fromDirect(m *nats.Msg) (Letter, error) {
	seq, err := strconv.ParseUint(pop(m.Header, headerSequence), 10, 64)
	if err != nil {
		return Letter{}, fmt.Errorf("the broker's answer: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, pop(m.Header, headerTime))
	if err != nil {
		return Letter{}, fmt.Errorf("the broker's answer: %w", err)
	}
	subject := pop(m.Header, headerSubject)
	for _, k := range []string{"Nats-Stream", "Nats-Num-Pending", "Nats-Last-Sequence"} {
		pop(m.Header, k)
	}
	return newLetter(subject, m.Header, m.Data, seq, at), nil
}

// pop takes the last value of a header away: the broker appends its own to those
// that were stored.
func pop(h nats.Header, name string) string {
	vs := h[name]
	if len(vs) == 0 {
		return ""
	}
	v := vs[len(vs)-1]
	if vs = vs[:len(vs)-1]; len(vs) == 0 {
		delete(h, name)
	} else {
		h[name] = vs
	}
	return v
}
