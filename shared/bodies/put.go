package bodies

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// Object is a body that was stored by [Put].
type Object struct {
	Name string // for Task-Ref
	nuid string // of its content
}

// Publish stores one message, and returns nil once the broker has confirmed it. It
// may send the message more than once: it carries Nats-Msg-Id, which the object
// store remembers for two minutes.
type Publish func(ctx context.Context, m *nats.Msg) error

const chunkSize = 128 << 10 // bytes, the object store's default

// Put stores body and returns once the broker has confirmed all of it. The name is
// owner and a part that is new: two publishes with one id must not share a body,
// or the one that is refused would remove the other's. owner is for people who
// list BODIES.
//
// publish is called for one message after the other. When it fails Put removes
// what there is and returns its error. What [Get] would refuse is not stored: the
// error wraps task.ErrBadBody for a body larger than [task.MaxBody], and
// [ErrNotFound] for a name that would have more than 1 KiB.
//
// nats.go's own Put is not used: while a leader is being elected it repeats a chunk
// out of order, and with the content of a later one.
func Put(ctx context.Context, js jetstream.JetStream, publish Publish, owner string, body []byte) (*Object, error) {
	nuid := rand.Text()
	o := &Object{Name: owner + ":" + nuid, nuid: nuid}
	if len(body) > task.MaxBody {
		return nil, fmt.Errorf("put body into %s: %w", task.BodiesBucket, tooLarge(uint64(len(body))))
	}
	if !possible(o.Name) {
		return nil, fmt.Errorf("put body into %s: %w", task.BodiesBucket, badName(o.Name))
	}
	if err := o.write(ctx, publish, body); err != nil {
		err = fmt.Errorf("put body of %d bytes into %s: %w", len(body), task.BodiesBucket, err)
		return nil, errors.Join(err, o.Remove(ctx, js))
	}
	return o, nil
}

func (o *Object) write(ctx context.Context, publish Publish, body []byte) error {
	chunks, err := chunkSubject(o.nuid)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n := 0
	for rest := body; len(rest) > 0; n++ {
		chunk := rest[:min(chunkSize, len(rest))]
		rest = rest[len(chunk):]
		sum.Write(chunk)
		m := &nats.Msg{Subject: chunks, Data: chunk, Header: nats.Header{task.HeaderMsgID: {o.nuid + ":" + strconv.Itoa(n)}}}
		if err := publish(ctx, m); err != nil {
			return err
		}
	}
	info, err := json.Marshal(&jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{Name: o.Name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: chunkSize}},
		Bucket:     task.BodiesBucket,
		NUID:       o.nuid,
		Size:       uint64(len(body)),
		Chunks:     uint32(n),
		Digest:     jetstream.GetObjectDigestValue(sum),
	})
	if err != nil {
		return err
	}
	return publish(ctx, &nats.Msg{Subject: metaSubject(o.Name), Data: info, Header: nats.Header{
		task.HeaderMsgID:    {o.nuid},
		jetstream.MsgRollup: {jetstream.MsgRollupSubject},
	}})
}
