package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/telemetry"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type deadCmd struct {
	Groups  deadGroupsCmd  `cmd:"" default:"withargs" help:"Count dead letters by their cause. This is what \"drover dead\" does alone."`
	Ls      deadLsCmd      `cmd:"" help:"List dead letters, oldest first."`
	Show    deadShowCmd    `cmd:"" help:"Tell the story of one: attempts, errors, why it died, what to do."`
	Redrive deadRedriveCmd `cmd:"" help:"Run them again, as their next generation; many as a canary."`
	Edit    deadEditCmd    `cmd:"" help:"Change their arguments, and run them again."`
	Discard deadDiscardCmd `cmd:"" help:"Delete them for ever."`
}

// Help is the long text of --help.
func (deadCmd) Help() string {
	return `A dead letter is a task that no worker could finish. It stays in the stream DEAD,
with its history, until somebody redrives or discards it. Letters that died of one
cause are a group, named by its fingerprint. What is done to letters, by whom and
why, stands in the audit trail: "drover audit ls".

Examples:

    drover dead
    drover dead ls --group 3f9a0c17d2b4
    drover dead show order-17-mail
    drover dead redrive --group 3f9a0c17d2b4
    drover dead edit --group 3f9a0c17d2b4 --set to=ada@example.org
    drover dead discard order-17-mail --why 'sent by hand'`
}

// letterFilter are the flags that choose among dead letters.
type letterFilter struct {
	Service string      `placeholder:"NAME" help:"Only tasks of this service."`
	Kind    string      `placeholder:"KIND" help:"Only tasks of this kind, such as email.send; a pattern such as 'email.*', or a service, will do."`
	Class   task.Class  `placeholder:"CLASS" help:"Only tasks of this class."`
	Tenant  string      `placeholder:"NAME" help:"Only tasks of this tenant."`
	Group   string      `placeholder:"FINGERPRINT" help:"Only letters of this group, as \"drover dead\" names them."`
	Reason  task.Reason `placeholder:"REASON" help:"Only those that died so: failed, permanent, crash-loop, undecodable, unknown-kind or expired."`
	Text    string      `placeholder:"TEXT" help:"Only those with this text in an error of theirs."`
	Since   string      `placeholder:"WHEN" help:"Only those that died since: a duration ago such as 2h, or a time as RFC 3339 has it."`
	Until   string      `placeholder:"WHEN" help:"Only those that died before that."`
}

var reasons = []task.Reason{task.Failed, task.Permanent, task.CrashLoop, task.Undecodable, task.UnknownKind, task.Expired}

// filter is what the flags say.
func (f letterFilter) filter(now time.Time) (deadletter.Filter, error) {
	d := deadletter.Filter{
		Service: f.Service, Kind: f.Kind, Class: f.Class, Tenant: f.Tenant, Fingerprint: f.Group, Contains: f.Text, Reason: f.Reason,
	}
	if f.Kind != "" && !strings.ContainsAny(f.Kind, ".*?[") { // a service
		if f.Service != "" && f.Service != f.Kind {
			return d, fmt.Errorf("--kind %s --service %s: give one service", f.Kind, f.Service)
		}
		d.Kind, d.Service = "", f.Kind
	}
	if f.Reason != "" && !slices.Contains(reasons, f.Reason) {
		return d, fmt.Errorf("--reason %s: want one of %s", f.Reason, list(reasons))
	}
	var err error
	if d.Since, err = when("--since", f.Since, now); err != nil {
		return d, err
	}
	if d.Until, err = when("--until", f.Until, now); err != nil {
		return d, err
	}
	return d, between(d.Since, d.Until)
}

// words is what was chosen, as one would type it.
func (f letterFilter) words(now time.Time) string {
	d, err := f.filter(now)
	if err != nil {
		return ""
	}
	var out []string
	for _, w := range f.given() {
		switch w.flag {
		case "--since":
			w.value = stampOf(d.Since)
		case "--until":
			w.value = stampOf(d.Until)
		}
		out = append(out, w.flag+" "+shellWord(w.value))
	}
	return strings.Join(out, " ")
}

type givenFlag struct{ flag, value string }

// given are the flags that choose something.
func (f letterFilter) given() []givenFlag {
	return slices.DeleteFunc([]givenFlag{
		{"--service", f.Service},
		{"--kind", f.Kind},
		{"--class", string(f.Class)},
		{"--tenant", f.Tenant},
		{"--group", f.Group},
		{"--reason", string(f.Reason)},
		{"--text", f.Text},
		{"--since", f.Since},
		{"--until", f.Until},
	}, func(g givenFlag) bool { return g.value == "" })
}

func stampOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func shellWord(s string) string {
	if strings.ContainsAny(s, " '\"*?[$&|;<>()\\\t\n") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// when is the time that a flag means: so long ago, or a time or day.
func when(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %q: want a duration such as 24h or 7d, or a time such as %s", flag, text, now.Add(-time.Hour).UTC().Format(time.RFC3339))
}

// between is about a span of time that has an end before it has a beginning.
func between(since, until time.Time) error {
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return fmt.Errorf("--since %s is not before --until %s: nothing is between them", second(since), second(until))
	}
	return nil
}

// letter are the keys of dead ls --json, one object for each dead letter.
type letter struct {
	Sequence   uint64      `json:"sequence"` // in DEAD
	ID         string      `json:"id"`
	Kind       string      `json:"kind"`
	Class      task.Class  `json:"class"`
	Tenant     string      `json:"tenant,omitempty"`
	Reason     task.Reason `json:"reason"`
	Group      string      `json:"group,omitempty"` // its fingerprint
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
		EnqueuedAt: l.EnqueuedAt.UTC(), DiedAt: l.DiedAt.UTC(), Error: l.LastError(), Trace: traceOf(l.Header),
	}
	if l.Sequence > 0 { // there is a letter
		out.Group = deadletter.Fingerprint(&l)
	}
	if l.Problem != nil {
		out.Problem = l.Problem.Error()
	}
	return out
}

// traceOf is the id of the trace that a task was published in, and "" without one.
func traceOf(h nats.Header) string {
	if sc := telemetry.ParseTraceparent(telemetry.Carrier(h).Get("traceparent")); sc.IsValid() {
		return sc.TraceID().String()
	}
	return ""
}

func letters(n int) string { return screen.Some(n, "dead letter", "dead letters") }

// deadError gives errors about dead letters their exit codes.
func deadError(err error) error {
	switch {
	case errors.Is(err, deadletter.ErrNotFound):
		return notFound(err)
	case errors.Is(err, deadletter.ErrAmbiguous), errors.Is(err, deadletter.ErrFilter), errors.Is(err, deadletter.ErrEdit):
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
