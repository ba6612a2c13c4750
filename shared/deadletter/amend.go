package deadletter

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/bodies"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
)

const refAbove = 256 << 10 // bytes of a body; what is larger goes to BODIES, as a producer's does

// Amend is [Redrive] with another body, which must pass task.Check. mark names the
// act, by which it is found in the audit trail; it travels with the task in
// Task-Edited. A large body goes behind the claim check.
//
// The letter and its old body stay until the new generation is stored. Amend returns
// the errors of Redrive, and one wrapping task.ErrBadBody for a body that does not
// pass. One wrapping [ErrNotFound] also says that somebody redrove the letter at the
// same moment without this edit, or may have: the receipt is then that task's. When
// only the old body cannot be removed, the task runs all the same and the error
// wraps [ErrStays].
func Amend(ctx context.Context, js jetstream.JetStream, l Letter, body []byte, mark string, opts ...Option) (client.Receipt, error) {
	rc, err := amend(ctx, js, &l, body, mark, newConfig(opts))
	if err != nil {
		return rc, fmt.Errorf("edit and redrive %s: %w", l.name(), err)
	}
	return rc, nil
}

func amend(ctx context.Context, js jetstream.JetStream, l *Letter, body []byte, mark string, cfg config) (client.Receipt, error) {
	if err := task.Check(body, task.Limits{}); err != nil {
		return client.Receipt{}, err
	}
	edited, object, err := l.amended(ctx, js, body, mark)
	if err != nil {
		return client.Receipt{}, err
	}
	rc, err := redrive(ctx, js, edited, cfg)
	ours := true
	if rc.Stream != "" && rc.Duplicate {
		var derr error
		if ours, derr = isOurs(ctx, js, edited, rc, mark); derr != nil {
			return rc, errors.Join(derr, err)
		}
	}
	stored := rc.Stream != "" && ours
	switch {
	case stored && err == nil && l.Ref != "":
		if rerr := bodies.Remove(ctx, js, l.Ref); rerr != nil {
			err = fmt.Errorf("%w: its old body: %w", ErrStays, rerr)
		}
	case !stored && object != nil && !errors.Is(err, client.ErrUnknown):
		err = errors.Join(err, object.Remove(ctx, js))
	}
	if !ours {
		err = errors.Join(fmt.Errorf("%w: somebody redrove it at the same moment, without this edit", ErrNotFound), err)
	}
	return rc, err
}

// amended is l with another body, which is stored in BODIES when it is large.
func (l *Letter) amended(ctx context.Context, js jetstream.JetStream, body []byte, mark string) (*Letter, *bodies.Object, error) {
	out := *l
	out.Header = maps.Clone(l.Header)
	if out.Header == nil {
		out.Header = nats.Header{}
	}
	out.Header[task.HeaderEdited] = []string{mark}
	delete(out.Header, task.HeaderEncoding)
	delete(out.Header, task.HeaderRef)
	out.Encoding, out.Ref = "", ""
	var compressed bool
	if out.Body, compressed = task.Compress(body); compressed {
		out.Encoding = task.EncodingZstd
		out.Header[task.HeaderEncoding] = []string{task.EncodingZstd}
	}
	if len(out.Body) <= refAbove {
		return &out, nil, nil
	}
	object, err := bodies.Put(ctx, js, func(ctx context.Context, m *nats.Msg) error {
		return repeat(ctx, func(ctx context.Context) error {
			_, err := js.PublishMsg(ctx, m)
			return err
		})
	}, l.Subject.Kind()+":"+task.Token(l.ID), out.Body)
	if err != nil {
		return nil, nil, err
	}
	out.Body, out.Ref = nil, object.Name
	out.Header[task.HeaderRef] = []string{object.Name}
	return &out, object, nil
}

// isOurs reports whether the generation that the broker had already is the one that
// was published under this mark: an earlier try of ours, whose answer was lost.
func isOurs(ctx context.Context, js jetstream.JetStream, l *Letter, rc client.Receipt, mark string) (bool, error) {
	m, _, err := successor(ctx, js, l, rc)
	switch {
	case errors.Is(err, ErrNotFound):
		return false, fmt.Errorf("%w: it was redriven at the same moment and has run already, perhaps without this edit", ErrNotFound)
	case err != nil:
		return false, fmt.Errorf("it is redriven, but whether with this edit cannot be seen: %w", err)
	}
	return first(m.Header, task.HeaderEdited) == mark, nil
}
