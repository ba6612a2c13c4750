package bodies

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const removeLimit = 5 * time.Second // for removing a body that nothing refers to

// ErrNotOwn is returned by [RemoveOf] for a body of another kind.
var ErrNotOwn = errors.New("it may be another task's")

// RemoveOf is Remove for the body of a task of this kind. A publisher can write any
// name into Task-Ref, and must not have the body of a task removed that it may not
// publish: unless the name begins with the kind and ":", RemoveOf returns an error
// wrapping [ErrNotOwn].
func RemoveOf(ctx context.Context, js jetstream.JetStream, kind, name string) error {
	if !strings.HasPrefix(name, kind+":") {
		return fmt.Errorf("remove body %q from %s: %w: the name does not begin with %q", shorten(name), task.BodiesBucket, ErrNotOwn, kind+":")
	}
	return Remove(ctx, js, name)
}

// Remove takes the body that is stored under name out of BODIES without a trace:
// the object store's own delete leaves a marker for ever. It returns nil when there
// is none.
func Remove(ctx context.Context, js jetstream.JetStream, name string) error {
	if err := remove(ctx, js, name); err != nil {
		return fmt.Errorf("remove body %q from %s: %w", shorten(name), task.BodiesBucket, err)
	}
	return nil
}

func remove(ctx context.Context, js jetstream.JetStream, name string) error {
	if !possible(name) {
		return nil
	}
	s, err := js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := describe(ctx, s, name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return purge(ctx, s, name, info.NUID)
}

// Remove takes o out of BODIES again, without a trace, and does not look it up as
// the function [Remove] does. It goes on when ctx has ended, for 5 s at most, and
// does not wait for a connection that is lost.
func (o *Object) Remove(ctx context.Context, js jetstream.JetStream) error {
	if err := o.remove(ctx, js); err != nil {
		return fmt.Errorf("remove its body %s from %s: %w: it stays there unused", o.Name, task.BodiesBucket, err)
	}
	return nil
}

func (o *Object) remove(ctx context.Context, js jetstream.JetStream) error {
	if !js.Conn().IsConnected() {
		return nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return purge(ctx, s, o.Name, o.nuid)
}

// purge removes the description first, so that what it leaves when it is
// interrupted is content that nobody finds, and no body without its content.
func purge(ctx context.Context, s jetstream.Stream, name, nuid string) error {
	chunks, err := chunkSubject(nuid)
	if err != nil {
		return err
	}
	for _, subject := range []string{metaSubject(name), chunks} {
		if err := s.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return err
		}
	}
	return nil
}
