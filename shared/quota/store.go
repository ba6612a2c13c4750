package quota

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/task"
)

// Errors of this package that callers branch on.
var (
	ErrNoBucket = errors.New("the broker has no bucket " + task.LimitsBucket) // returned when the topology was not applied
	ErrDenied   = errors.New("the broker does not allow it")                  // returned when the credentials lack a permission
)

// errConflict is returned when another process was first.
var errConflict = errors.New("the record is another one by now")

const (
	askLimit = 2 * time.Second  // of one request
	keepFor  = 30 * time.Second // a record beyond what it says
	maxKey   = 200              // bytes of a key that a record shows
	stream   = "KV_" + task.LimitsBucket
	prefix   = "rate."
)

// Record is a schedule as it stands in the bucket.
type Record struct {
	Key   string        `json:"key"` // cut after 200 bytes
	Limit int           `json:"limit"`
	Per   time.Duration `json:"per_ns"`
	ratelimit.Schedule
}

// store reads and writes records.
type store struct{ js jetstream.JetStream }

// time asks the leader of the bucket what time it is, and so whether it exists.
func (s store) time(ctx context.Context) (at time.Time, err error) {
	err = s.ask(ctx, broker.API(s.js, "STREAM.INFO."+stream), func(ctx context.Context) error {
		st, err := s.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		if at = st.CachedInfo().TimeStamp; at.IsZero() {
			return errors.New("the broker does not say what time it is: it is too old")
		}
		return nil
	})
	return at, err
}

// get returns the record of a key with its sequence; both are zero when there is
// none. A record that expired has a sequence alone.
func (s store) get(service, of string) (r Record, seq uint64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	where := broker.API(s.js, "DIRECT.GET."+stream+"."+subject(service, of))
	err = s.ask(ctx, where, func(ctx context.Context) error {
		m, err := s.js.Conn().RequestWithContext(ctx, where, nil)
		if err != nil {
			return err
		}
		switch m.Header.Get("Status") {
		case "":
		case "404":
			return nil
		default:
			return fmt.Errorf("read %s: %s %s", subject(service, of), m.Header.Get("Status"), m.Header.Get("Description"))
		}
		if _, err := fmt.Sscan(m.Header.Get("Nats-Sequence"), &seq); err != nil {
			return fmt.Errorf("read %s: its sequence: %w", subject(service, of), err)
		}
		if len(m.Data) == 0 { // the marker of an expiry
			return nil
		}
		return json.Unmarshal(m.Data, &r)
	})
	return r, seq, err
}

// put writes r unless the sequence of what is there is another one, and returns
// its own.
func (s store) put(service, of string, r Record, seq uint64, ttl time.Duration) (stored uint64, err error) {
	data, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	where := subject(service, of)
	err = s.ask(ctx, where, func(ctx context.Context) error {
		ack, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: where, Data: data}, jetstream.WithExpectStream(stream),
			jetstream.WithMsgTTL(ttl.Truncate(time.Second)+time.Second), jetstream.WithExpectLastSequencePerSubject(seq))
		if api, ok := errors.AsType[*jetstream.APIError](err); ok &&
			(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
			return errConflict
		}
		if err == nil {
			stored = ack.Sequence
		}
		return err
	})
	return stored, err
}

// ask makes one request; its subject is for the message when it is denied.
func (s store) ask(ctx context.Context, subject string, f func(context.Context) error) error {
	before := s.js.Conn().LastError()
	if s.js.Conn().IsReconnecting() {
		return nats.ErrDisconnected // and not a buffer that is sent who knows when
	}
	err := f(ctx)
	if err == nil || errors.Is(err, errConflict) {
		return err
	}
	said := s.js.Conn().LastError()
	if said != before && errors.Is(said, nats.ErrPermissionViolation) && strings.Contains(said.Error(), subject) { //nolint:errorlint // is it the same one
		return fmt.Errorf("%w: publish to %s: grant it to these credentials", ErrDenied, subject)
	}
	if errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		return fmt.Errorf("%w: make it with `drover streams apply`", ErrNoBucket)
	}
	return err
}

// key of a limit, which may hold anything.
func key(service, of string) string {
	sum := sha256.Sum256([]byte(of))
	return prefix + service + "." + hex.EncodeToString(sum[:16])
}

func subject(service, of string) string { return "$KV." + task.LimitsBucket + "." + key(service, of) }

// short is as much of a key as a record shows.
func short(s string) string {
	if len(s) <= maxKey {
		return s
	}
	return strings.ToValidUTF8(s[:maxKey], "") + "…"
}
