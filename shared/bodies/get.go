package bodies

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const maxChunks = task.MaxBody >> 10 // of one body: clients write 128 KiB in each

// Content returns the body of a message as it was published: data, or what is in
// BODIES when s has a Ref, decompressed where s says so. It is not checked
// otherwise. It returns the errors of [Get], and one wrapping task.ErrBadBody when it
// does not decompress to [task.MaxBody] or less.
func Content(ctx context.Context, js jetstream.JetStream, s *task.State, data []byte) ([]byte, error) {
	if s.Ref != "" {
		var err error
		if data, err = Get(ctx, js, s.Ref); err != nil {
			return nil, err
		}
	}
	if s.Encoding != task.EncodingZstd {
		return data, nil
	}
	return task.Decompress(data, task.MaxBody)
}

// Get returns the body that is stored under name, as it is there: perhaps
// compressed, and not checked. The error wraps [ErrNotFound] when there is none,
// and task.ErrBadBody when it is larger than [task.MaxBody], damaged, or a link:
// no further try can mend these. Anything else may be over the next time.
//
// nats.go's own Get is not used: it waits until ctx ends for content that is not
// there, and believes any size.
func Get(ctx context.Context, js jetstream.JetStream, name string) ([]byte, error) {
	body, err := get(ctx, js, name)
	if err != nil {
		return nil, fmt.Errorf("get body %q from %s: %w", shorten(name), task.BodiesBucket, err)
	}
	return body, nil
}

func get(ctx context.Context, js jetstream.JetStream, name string) ([]byte, error) {
	if !possible(name) {
		return nil, badName(name)
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	info, err := describe(ctx, s, name)
	switch {
	case err != nil:
		return nil, err
	case info.Deleted: // the marker of a deleted one
		return nil, ErrNotFound
	case info.Opts != nil && info.Opts.Link != nil:
		return nil, damaged(errors.New("it is a link"))
	case info.Size > task.MaxBody:
		return nil, tooLarge(info.Size)
	case info.Size == 0:
		return nil, nil
	}
	return read(ctx, s, info)
}

// read returns the content that info describes.
func read(ctx context.Context, s jetstream.Stream, info *jetstream.ObjectInfo) ([]byte, error) {
	subject, err := chunkSubject(info.NUID)
	if err != nil {
		return nil, err
	}
	body := make([]byte, 0, info.Size)
	var n, seq uint64
	for ; n < maxChunks && uint64(len(body)) < info.Size; n++ {
		m, err := s.GetMsg(ctx, seq+1, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, missing(ctx, s, subject, n, damaged(fmt.Errorf("%d of its %d bytes are there", len(body), info.Size)))
		}
		if err != nil {
			return nil, err
		}
		seq = m.Sequence
		body = append(body, m.Data...)
	}
	if uint64(len(body)) != info.Size {
		return nil, damaged(fmt.Errorf("%d messages hold %d bytes, want %d", n, len(body), info.Size))
	}
	sum := sha256.Sum256(body)
	if want, err := jetstream.DecodeObjectDigest(info.Digest); err != nil || !bytes.Equal(sum[:], want) {
		return nil, damaged(errors.New("its content is not the one that was stored"))
	}
	return body, nil
}

func tooLarge(n uint64) error {
	return fmt.Errorf("%w: %d bytes, %d are allowed", task.ErrBadBody, n, task.MaxBody)
}
