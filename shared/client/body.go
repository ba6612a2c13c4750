package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// storedBody is an object in BODIES.
type storedBody struct {
	name         string
	chunks, meta string // subjects
}

const (
	chunkSize   = 128 << 10       // bytes, the object store's default
	removeLimit = 5 * time.Second // for removing a body that nothing refers to
)

// store puts body into BODIES and returns once the broker has confirmed all of
// it. Its name is new, although it holds kind and id: two publishes with one id
// must not share a body, or the one that is refused would remove the other's.
//
// The object is written in the format of the NATS object store (ADR-20), so that
// any client can read it. nats.go's own Put is not used: while a leader is being
// elected it repeats a chunk out of order, and with the content of a later one.
func (c *Client) store(ctx context.Context, kind, id string, body []byte) (*storedBody, error) {
	unique := rand.Text()
	b := &storedBody{name: kind + ":" + task.Token(id) + ":" + unique}
	b.chunks = "$O." + task.BodiesBucket + ".C." + unique
	b.meta = "$O." + task.BodiesBucket + ".M." + base64.URLEncoding.EncodeToString([]byte(b.name))
	if err := c.write(ctx, b, unique, body); err != nil {
		err = fmt.Errorf("put body of %d bytes into %s: %w", len(body), task.BodiesBucket, err)
		return nil, errors.Join(err, c.remove(ctx, b))
	}
	return b, nil
}

func (c *Client) write(ctx context.Context, b *storedBody, unique string, body []byte) error {
	sum := sha256.New()
	n := 0
	for rest := body; len(rest) > 0; n++ {
		chunk := rest[:min(chunkSize, len(rest))]
		rest = rest[len(chunk):]
		sum.Write(chunk)
		id := unique + ":" + strconv.Itoa(n)
		m := message{Msg: nats.Msg{Subject: b.chunks, Data: chunk, Header: nats.Header{task.HeaderMsgID: {id}}}}
		if _, err := c.deliver(ctx, &m); err != nil {
			return err
		}
	}
	info, err := json.Marshal(&jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{Name: b.name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: chunkSize}},
		Bucket:     task.BodiesBucket,
		NUID:       unique,
		Size:       uint64(len(body)),
		Chunks:     uint32(n),
		Digest:     jetstream.GetObjectDigestValue(sum),
	})
	if err != nil {
		return err
	}
	m := message{Msg: nats.Msg{Subject: b.meta, Data: info, Header: nats.Header{
		task.HeaderMsgID:    {unique},
		jetstream.MsgRollup: {jetstream.MsgRollupSubject},
	}}}
	_, err = c.deliver(ctx, &m)
	return err
}

// remove takes b out of BODIES again, without a trace. It goes on when ctx has
// ended, for a short time of its own.
func (c *Client) remove(ctx context.Context, b *storedBody) error {
	if !c.nc.IsConnected() {
		return fmt.Errorf("remove its body %s from %s: %w: it stays there unused", b.name, task.BodiesBucket, nats.ErrDisconnected)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
	defer cancel()
	s, err := c.js.Stream(ctx, "OBJ_"+task.BodiesBucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	for _, subject := range []string{b.meta, b.chunks} {
		if err == nil {
			err = s.Purge(ctx, jetstream.WithPurgeSubject(subject))
		}
	}
	if err != nil {
		return fmt.Errorf("remove its body %s from %s: %w: it stays there unused", b.name, task.BodiesBucket, err)
	}
	return nil
}
