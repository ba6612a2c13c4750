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
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// ErrNotFound is returned by [Get] when BODIES holds nothing under the name. It is
// not returned when BODIES itself is missing.
var ErrNotFound = errors.New("there is no such body")

var errBehind = errors.New("a replica of " + task.BodiesBucket + " answered that does not have it yet")

const (
	stream = "OBJ_" + task.BodiesBucket // behind the object store
	// A longer name is not looked for: the broker closes the connection on a
	// subject of 4 KiB, and a publisher must not be able to do that to a worker.
	maxName = 1 << 10 // bytes
)

// possible reports whether a body can have this name.
func possible(name string) bool { return name != "" && len(name) <= maxName }

func badName(name string) error {
	return fmt.Errorf("%w: its name has %d bytes, want 1 to %d", ErrNotFound, len(name), maxName)
}

// shorten keeps a stranger's name from filling a log line.
func shorten(name string) string {
	if len(name) > maxName {
		return name[:maxName] + "…"
	}
	return name
}

func metaSubject(name string) string {
	return "$O." + task.BodiesBucket + ".M." + base64.URLEncoding.EncodeToString([]byte(name))
}

// chunkSubject is where the content is that a description names. Anyone may have
// written that: a ">" would be the content of all bodies.
func chunkSubject(nuid string) (string, error) {
	if err := task.CheckToken(nuid); err != nil {
		return "", damaged(fmt.Errorf("its content is at %q: %w", shorten(nuid), err))
	}
	return "$O." + task.BodiesBucket + ".C." + nuid, nil
}

// describe returns the description of the object with this name.
func describe(ctx context.Context, s jetstream.Stream, name string) (*jetstream.ObjectInfo, error) {
	m, err := s.GetLastMsgForSubject(ctx, metaSubject(name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, missing(ctx, s, metaSubject(name), 0, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	var info jetstream.ObjectInfo
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return nil, damaged(fmt.Errorf("read its description: %w", err))
	}
	return &info, nil
}

// missing returns err if the leader has no more than n messages of subject either.
// Reading is by direct get, which any replica may answer.
func missing(ctx context.Context, s jetstream.Stream, subject string, n uint64, err error) error {
	info, ierr := s.Info(ctx, jetstream.WithSubjectFilter(subject))
	switch {
	case ierr != nil:
		return ierr
	case info.State.Subjects[subject] > n:
		return errBehind
	}
	return err
}

// damaged is for what no further try can read.
func damaged(err error) error { return fmt.Errorf("%w: %w", task.ErrBadBody, err) }
