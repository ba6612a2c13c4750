package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type deadCmd struct {
	Ls      deadLsCmd      `cmd:"" help:"List dead letters, oldest first."`
	Show    deadShowCmd    `cmd:"" help:"Tell the story of one: attempts, errors, why it died, what to do."`
	Redrive deadRedriveCmd `cmd:"" help:"Run them again, as their next generation."`
	Discard deadDiscardCmd `cmd:"" help:"Delete them for ever."`
}

// Help is the long text of --help.
func (deadCmd) Help() string {
	return `A dead letter is a task that no worker could finish. It stays in the stream DEAD,
with its history, until somebody redrives or discards it.

Examples:

    drover dead ls --service email --since 24h
    drover dead show order-17-mail
    drover dead redrive order-17-mail
    drover dead discard order-17-mail --reason 'sent by hand'`
}

// letterFilter are the flags that choose among dead letters.
type letterFilter struct {
	Service string      `placeholder:"NAME" help:"Only tasks of this service."`
	Kind    string      `placeholder:"KIND" help:"Only tasks of this kind, such as email.send."`
	Class   task.Class  `placeholder:"CLASS" help:"Only tasks of this class."`
	Reason  task.Reason `placeholder:"REASON" help:"Only those that died so: failed, permanent, crash-loop, undecodable, unknown-kind or expired."`
	Since   string      `placeholder:"WHEN" help:"Only those that died since: a duration ago, or a time as RFC 3339 has it."`
	Text    string      `placeholder:"TEXT" help:"Only those with this text in an error of theirs."`
}

var reasons = []task.Reason{task.Failed, task.Permanent, task.CrashLoop, task.Undecodable, task.UnknownKind, task.Expired}

func (f letterFilter) filter(now time.Time) (deadletter.Filter, error) {
	d := deadletter.Filter{Service: f.Service, Kind: f.Kind, Class: f.Class, Reason: f.Reason, Contains: f.Text}
	if f.Reason != "" && !slices.Contains(reasons, f.Reason) {
		return d, fmt.Errorf("--reason %s: want one of %s", f.Reason, list(reasons))
	}
	if f.Since == "" {
		return d, nil
	}
	if ago, err := time.ParseDuration(f.Since); err == nil && ago >= 0 {
		d.Since = now.Add(-ago)
		return d, nil
	}
	var err error
	if d.Since, err = time.Parse(time.RFC3339, f.Since); err != nil {
		return d, fmt.Errorf("--since %q: want a duration such as 24h, or a time such as %s", f.Since, now.Add(-time.Hour).UTC().Format(time.RFC3339))
	}
	return d, nil
}

// letter are the keys of dead ls --json, one object for each dead letter.
type letter struct {
	Sequence   uint64      `json:"sequence"` // in DEAD
	ID         string      `json:"id"`
	Kind       string      `json:"kind"`
	Class      task.Class  `json:"class"`
	Tenant     string      `json:"tenant,omitempty"`
	Reason     task.Reason `json:"reason"`
	Attempts   int         `json:"attempts"`
	Deaths     int         `json:"deaths"`
	Generation int         `json:"generation"` // redrives before it died
	EnqueuedAt time.Time   `json:"enqueued_at"`
	DiedAt     time.Time   `json:"died_at"`
	Error      string      `json:"error,omitempty"` // the last one
	Trace      string      `json:"trace,omitempty"` // id of the trace it was published in
	Problem    string      `json:"problem,omitempty"`
}

func letterOf(l deadletter.Letter) letter {
	out := letter{
		Sequence: l.Sequence, ID: l.ID, Kind: l.Subject.Kind(), Class: l.Subject.Class, Tenant: l.Subject.Tenant,
		Reason: l.Reason, Attempts: l.Attempt, Deaths: l.Deaths, Generation: l.Generation,
		EnqueuedAt: l.EnqueuedAt.UTC(), DiedAt: l.DiedAt.UTC(), Error: lastError(l),
	}
	if l.Problem != nil {
		out.Problem = l.Problem.Error()
	}
	if sc := telemetry.ParseTraceparent(telemetry.Carrier(l.Header).Get("traceparent")); sc.IsValid() {
		out.Trace = sc.TraceID().String()
	}
	return out
}

func lastError(l deadletter.Letter) string {
	if n := len(l.Errors); n > 0 {
		return l.Errors[n-1].Error
	}
	return ""
}

type deadLsCmd struct {
	letterFilter

	Limit int `default:"100" placeholder:"N" help:"At most this many; 0 for all. The default is 100."`
}

// Help is the long text of --help.
func (deadLsCmd) Help() string {
	return `Examples:

    drover dead ls
    drover dead ls --kind email.send --reason failed --since 24h
    drover dead ls --text 'connection refused' --limit 0 --json`
}

// Validate is called by kong.
func (c *deadLsCmd) Validate() error {
	if c.Limit < 0 {
		return fmt.Errorf("--limit %d: want 0 for all, or more", c.Limit)
	}
	return nil
}

const errorWidth = 100 // of the table's last column, when no screen limits it

func (c *deadLsCmd) Run(ctx context.Context, app *App) error {
	f, err := c.filter(time.Now())
	if err != nil {
		return usage(err)
	}
	if c.Limit > 0 {
		f.Limit = c.Limit + 1 // to know whether there are more
	}
	js, done, err := app.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	t := screen.Table{Head: []string{">SEQUENCE", ">AGE", "KIND", "CLASS", "REASON", ">ATTEMPTS", "ID", "ERROR"}}
	n, more := 0, false
	for l, err := range deadletter.List(ctx, js, f) {
		if err != nil {
			return deadError(err)
		}
		if more = c.Limit > 0 && n == c.Limit; more {
			break
		}
		n++
		if app.JSON {
			if err := app.encode(letterOf(l)); err != nil {
				return err
			}
			continue
		}
		t.Add(strconv.FormatUint(l.Sequence, 10), screen.Span(time.Since(l.DiedAt)), l.Subject.Kind(), string(l.Subject.Class),
			string(l.Reason), strconv.Itoa(l.Attempt), screen.Plain(l.ID), screen.Cut(screen.Plain(lastError(l)), errorWidth))
	}
	switch {
	case app.JSON:
	case n == 0:
		app.printf("no dead letters\n")
	default:
		app.table(&t)
		app.printf("\n%s", letters(n))
		if more {
			app.printf(", and there are more: --limit 0 lists all")
		}
		app.printf("; `drover dead show ID` tells the story of one\n")
	}
	return nil
}

func letters(n int) string { return screen.Some(n, "dead letter", "dead letters") }

// deadError gives errors about dead letters their exit codes.
func deadError(err error) error {
	switch {
	case errors.Is(err, deadletter.ErrNotFound):
		return notFound(err)
	case errors.Is(err, deadletter.ErrAmbiguous), errors.Is(err, deadletter.ErrFilter):
		return usage(err)
	case errors.Is(err, deadletter.ErrNoStream):
		return mark{err, errRefused}
	}
	return err
}

// letterName are the arguments and the flag that name single dead letters.
type letterName struct {
	By string `enum:"any,id,sequence" default:"any" help:"What the arguments are: ids, sequences in DEAD, or whichever there is."`
}

// find returns the dead letter that name means. A number is the sequence of one
// and may be the id of another: then somebody has to say which is meant.
func (c letterName) find(ctx context.Context, js jetstream.JetStream, name string) (deadletter.Letter, error) {
	seq, err := strconv.ParseUint(name, 10, 64)
	if err != nil || seq == 0 || c.By == "id" {
		if c.By == "sequence" {
			return deadletter.Letter{}, usage(fmt.Errorf("%q is not a sequence", name))
		}
		l, err := deadletter.Get(ctx, js, name)
		return l, deadError(err)
	}
	bySeq, seqErr := deadletter.At(ctx, js, seq)
	if c.By == "sequence" || seqErr != nil && !errors.Is(seqErr, deadletter.ErrNotFound) {
		return bySeq, deadError(seqErr)
	}
	byID, idErr := deadletter.Get(ctx, js, name)
	switch {
	case idErr != nil && !errors.Is(idErr, deadletter.ErrNotFound):
		return deadletter.Letter{}, deadError(idErr)
	case seqErr == nil && idErr == nil && byID.Sequence != seq:
		return deadletter.Letter{}, usage(fmt.Errorf("%s is the sequence of %s %s and the id of %s: say which with --by sequence or --by id",
			name, bySeq.Subject.Kind(), bySeq.ID, byID.Subject.Kind()))
	case idErr == nil:
		return byID, nil
	}
	return bySeq, deadError(seqErr)
}
