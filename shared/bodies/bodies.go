// Package bodies is the claim check: a body too large for a message goes to the
// object store BODIES, and its task carries the name of the object in Task-Ref.
//
// # Semantics
//
// A body is stored before its task is published, under a name that is never used
// again, so it never changes. It is removed by whoever ends the task: the worker
// when the handler succeeded, the client when the broker refused the task, and the
// person who discards its dead letter. A dead letter keeps it, and a redrive hands
// it to the next generation. What cannot be removed, or is stored by a process
// that ends before it publishes the task, stays: it takes room and harms nobody.
//
// Bodies are objects as the NATS object store has them (ADR-20 of the NATS
// project), so that any client can write and read them.
//
// # Concurrency
//
// All functions are safe for concurrent use.
package bodies

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// ErrNotFound is returned by [Get] when BODIES holds nothing under the name. It is
// not returned when BODIES itself is missing.
var ErrNotFound = errors.New("there is no such body")

const (
	stream = "OBJ_" + task.BodiesBucket // behind the object store
	// A longer name is not looked for: the broker closes the connection on a
	// subject of 4 KiB, and a publisher must not be able to do that to a worker.
	maxName = 1 << 10 // bytes
)

// Get returns the body that is stored under name, as it is there: perhaps
// compressed, and not checked. The error wraps [ErrNotFound] when there is none,
// and task.ErrBadBody when it is larger than [task.MaxBody], of which Get reads
// no more, whatever the object says of its size.
func Get(ctx context.Context, js jetstream.JetStream, name string) ([]byte, error) {
	body, err := get(ctx, js, name)
	if err != nil {
		return nil, fmt.Errorf("get body %q from %s: %w", shorten(name), task.BodiesBucket, err)
	}
	return body, nil
}

func get(ctx context.Context, js jetstream.JetStream, name string) ([]byte, error) {
	if err := possible(name); err != nil {
		return nil, err
	}
	store, err := js.ObjectStore(ctx, task.BodiesBucket)
	if err != nil {
		return nil, err
	}
	info, err := store.GetInfo(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrObjectNotFound):
		return nil, ErrNotFound
	case err != nil:
		return nil, err
	case info.Size > task.MaxBody:
		return nil, tooLarge(info.Size)
	}
	object, err := store.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = object.Close() }() // all errors come from reading
	body := bytes.NewBuffer(make([]byte, 0, info.Size+bytes.MinRead))
	switch n, err := body.ReadFrom(io.LimitReader(object, task.MaxBody+1)); {
	case err != nil:
		return nil, err
	case n > task.MaxBody:
		return nil, tooLarge(uint64(n))
	}
	return body.Bytes(), nil
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
	if possible(name) != nil {
		return nil
	}
	s, err := js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := s.GetLastMsgForSubject(ctx, metaSubject(name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var info jetstream.ObjectInfo
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return fmt.Errorf("read its description: %w", err)
	}
	return purge(ctx, s, name, info.NUID)
}

// purge removes the description first, so that what it leaves when it is
// interrupted is content that nobody finds, and no body without its content.
func purge(ctx context.Context, s jetstream.Stream, name, nuid string) error {
	if err := task.CheckToken(nuid); err != nil { // a ">" would purge all bodies
		return fmt.Errorf("its description names the content %q: %w", shorten(nuid), err)
	}
	for _, subject := range []string{metaSubject(name), chunkSubject(nuid)} {
		if err := s.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return err
		}
	}
	return nil
}

func metaSubject(name string) string {
	return "$O." + task.BodiesBucket + ".M." + base64.URLEncoding.EncodeToString([]byte(name))
}

func chunkSubject(nuid string) string { return "$O." + task.BodiesBucket + ".C." + nuid }

// possible returns an error wrapping [ErrNotFound] for a name that no body has.
func possible(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%w: its name has %d bytes, want 1 to %d", ErrNotFound, len(name), maxName)
	}
	return nil
}

func tooLarge(n uint64) error {
	return fmt.Errorf("%w: %d bytes or more, %d are allowed", task.ErrBadBody, n, task.MaxBody)
}

// shorten keeps a stranger's name from filling a log line.
func shorten(name string) string {
	if len(name) > maxName {
		return name[:maxName] + "…"
	}
	return name
}
