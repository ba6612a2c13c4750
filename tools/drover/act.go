package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/audit"
)

// actor is the flag of verbs whose acts stand in the audit trail.
type actor struct {
	As string `env:"DROVER_AS" placeholder:"NAME" help:"Who does it, for the audit trail. The default is user@host."`
}

// who is the actor's name.
func (c actor) who() string { return cmp.Or(c.As, audit.Me()) }

// deed is an act that somebody may want to know the reason of. Its flag is --why:
// --reason is the one that letters died of.
type deed struct {
	actor

	Why string `placeholder:"TEXT" help:"Why, for the audit trail and whoever looks later."`
}

// act is something under way that the audit trail knows of.
type act struct {
	js    jetstream.JetStream
	entry audit.Entry
}

// beginAct stores what is about to be done. After an error it must not be done.
func beginAct(ctx context.Context, js jetstream.JetStream, e audit.Entry) (*act, error) {
	e, err := audit.Record(ctx, js, e)
	if err != nil {
		return nil, auditError(err)
	}
	return &act{js, e}, nil
}

// part stores which letters come next, before anything is done to them.
func (a *act) part(ctx context.Context, ids []string) error {
	_, err := audit.Record(ctx, a.js, a.entry.Part(ids))
	return auditError(err)
}

// end stores what became of it, also when ctx has ended, and returns err with what
// went wrong about that.
func (a *act) end(ctx context.Context, counts map[string]int, err error) error {
	_, aerr := audit.Record(context.WithoutCancel(ctx), a.js, a.entry.Outcome(counts, err))
	if aerr != nil {
		aerr = fmt.Errorf("what is told above was done, but its outcome is missing in the audit trail: %w", auditError(aerr))
	}
	return errors.Join(err, aerr)
}

// auditError gives errors about the audit trail their exit codes.
func auditError(err error) error {
	if errors.Is(err, audit.ErrNoStream) || errors.Is(err, audit.ErrDenied) {
		return mark{err, errRefused}
	}
	return err
}

// only leaves out the counts that are zero.
func only(counts map[string]int) map[string]int {
	for k, n := range counts {
		if n == 0 {
			delete(counts, k)
		}
	}
	return counts
}
