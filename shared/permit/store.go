package permit

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

	"github.com/droverhq/drover/shared/semaphore"
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
	askLimit = 2 * time.Second // of one request
	keepFor  = time.Hour       // a record after its last write: who holds permits writes sooner
)

// store reads and writes records.
type store struct{ js jetstream.JetStream }

const stream = "KV_" + task.LimitsBucket // behind the bucket

// get returns the record of a resource with its sequence; both are zero when there
// is none. A record that expired has a sequence alone.
func (s store) get(ctx context.Context, resource string) (r semaphore.Record, seq uint64, err error) {
	err = s.ask(ctx, "$JS.API.DIRECT.GET."+stream, func(ctx context.Context) error {
		// Only its name is used: whether it exists, the answer says.
		st, err := s.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		m, err := st.GetLastMsgForSubject(ctx, subject(resource))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		seq = m.Sequence
		if len(m.Data) == 0 { // the marker of an expiry
			return nil
		}
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return fmt.Errorf("read %s of bucket %s: %w: delete it with `nats kv del %[2]s %[1]s`", key(resource), task.LimitsBucket, err)
		}
		return nil
	})
	return r, seq, err
}

// put writes r unless the sequence of what is there is another one, and returns
// its own.
func (s store) put(ctx context.Context, r semaphore.Record, seq uint64) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	where := subject(r.Resource)
	return s.ask(ctx, where, func(ctx context.Context) error {
		_, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: where, Data: data}, jetstream.WithMsgTTL(keepFor),
			jetstream.WithExpectStream(stream), jetstream.WithExpectLastSequencePerSubject(seq))
		if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			return errConflict
		}
		return err
	})
}

// ask makes one request; its subject is for the message when it is denied.
func (s store) ask(ctx context.Context, subject string, f func(context.Context) error) error {
	before := s.js.Conn().LastError()
	if s.js.Conn().IsReconnecting() {
		return nats.ErrDisconnected // and not a buffer that is sent who knows when
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
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

const prefix = "cap."

// key of a resource, which may have any name.
func key(resource string) string {
	sum := sha256.Sum256([]byte(resource))
	return prefix + hex.EncodeToString(sum[:16])
}

func subject(resource string) string { return "$KV." + task.LimitsBucket + "." + key(resource) }
