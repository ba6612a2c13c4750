package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type enqueueCmd struct {
	Kind string   `arg:"" help:"What to do: SERVICE.ACTION, such as email.send."`
	Args []string `arg:"" optional:"" name:"key=value" help:"Arguments of the task."`

	Class    task.Class    `default:"default" help:"How soon it should start: a class of the fleet."`
	Tenant   string        `placeholder:"NAME" help:"On whose behalf it runs."`
	ID       string        `name:"id" placeholder:"ID" help:"The task's id. Twice the same within ten minutes is one task. Without it, a new one."`
	Deadline string        `placeholder:"WHEN" help:"Do not start it after this: a duration from now, or a time as RFC 3339 has it."`
	JSONArgs string        `name:"json-args" placeholder:"OBJECT" xor:"args" help:"All arguments as a JSON object."`
	File     string        `placeholder:"FILE" xor:"args" help:"Read that JSON object from a file, - for standard input."`
	Room     time.Duration `name:"wait-for-room" placeholder:"DURATION" help:"When the class is full, try again for this long, such as 10s. Without it, fail at once."`
	Count    int           `default:"1" help:"Publish this many tasks with these arguments, without waiting for each."`
}

// Help is the long text of --help.
func (enqueueCmd) Help() string {
	return `Arguments of the task are key=value words. Numbers, true, false and null are
what they look like, all else is text; 007 and +49 are text too. key:=JSON takes
any JSON, and so text that looks like a number: code:='"42"'. a.b=c is c under key
b of the map a. A key that comes twice makes a list.

A class that is full refuses: exit code 4, and the error says how full it is and
when to try again. With --wait-for-room it is tried again until then; with --count,
that is the longest time in which not one task finds room.

Examples:

    drover enqueue email.send to=ada@example.org subject=Hello text='It works.'
    drover enqueue email.send --class urgent to=ada@example.org to=bob@example.org subject=Both text=Hi
    drover enqueue webhook.deliver url=https://example.org/hook event=invoice.paid payload.id=17 payload.items:='[1,2]'
    drover enqueue email.send --class bulk --wait-for-room 1m to=ada@example.org subject=Hi text=Hi
    drover enqueue email.send --id order-17-mail --deadline 10m --file mail.json
    drover enqueue email.send --class bulk --count 1000 --json-args '{"to":"ada@example.org","subject":"Hi","text":"Hi"}'`
}

// Validate is called by kong.
func (c *enqueueCmd) Validate() error {
	switch {
	case c.Count < 1:
		return fmt.Errorf("--count %d: want at least 1", c.Count)
	case c.Count > 1 && c.ID != "":
		return errors.New("--count and --id: many tasks cannot have one id")
	case c.Room < 0:
		return fmt.Errorf("--wait-for-room %v: want a duration such as 10s", c.Room)
	case len(c.Args) > 0 && (c.JSONArgs != "" || c.File != ""):
		return errors.New("key=value and --json-args or --file: give one of them")
	}
	return nil
}

// enqueued are the keys of enqueue --json, one object for each task.
type enqueued struct {
	ID        string     `json:"id,omitempty"`
	Kind      string     `json:"kind"`
	Class     task.Class `json:"class"`
	Tenant    string     `json:"tenant,omitempty"`
	Stream    string     `json:"stream,omitempty"`
	Sequence  uint64     `json:"sequence,omitempty"`
	Duplicate bool       `json:"duplicate,omitempty"` // the broker held it already, nothing was stored
	Error     string     `json:"error,omitempty"`
}

func (c *enqueueCmd) Run(ctx context.Context, app *App) error {
	if _, _, err := task.SplitKind(c.Kind); err != nil {
		return err
	}
	body, err := c.body(app.Stdin)
	if err != nil {
		return usage(fmt.Errorf("arguments of %s: %w", c.Kind, err))
	}
	opts, err := c.options(time.Now())
	if err != nil {
		return usage(err)
	}
	js, done, err := app.connectToPublish(ctx)
	if err != nil {
		return err
	}
	defer done()
	traces, flush, err := app.tracing(ctx, app.complaint)
	if err != nil {
		return err
	}
	defer flush()
	cl, err := client.New(js, client.TracerProvider(traces), client.WaitForRoom(c.Room))
	if err != nil {
		return err
	}
	t := task.Raw{Name: c.Kind, Body: body}
	if c.Count > 1 {
		err = c.many(ctx, app, cl, t, opts)
	} else {
		err = c.one(ctx, app, cl, t, opts)
	}
	return c.advise(app, err)
}

// body is the msgpack of the arguments, from wherever they are given.
func (c *enqueueCmd) body(stdin io.Reader) ([]byte, error) {
	switch {
	case c.JSONArgs != "":
		return bodyOf([]byte(c.JSONArgs))
	case c.File == "-":
		text, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return bodyOf(text)
	case c.File != "":
		text, err := os.ReadFile(c.File)
		if err != nil {
			return nil, err
		}
		body, err := bodyOf(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.File, err)
		}
		return body, nil
	}
	args, err := pairs(c.Args)
	if err != nil {
		return nil, err
	}
	return task.Marshal(args)
}

func (c *enqueueCmd) options(now time.Time) ([]client.PublishOption, error) {
	opts := []client.PublishOption{client.Class(c.Class)}
	if c.Tenant != "" {
		opts = append(opts, client.Tenant(c.Tenant))
	}
	if c.ID != "" {
		opts = append(opts, client.ID(c.ID))
	}
	if c.Deadline != "" {
		t, err := deadline(c.Deadline, now)
		if err != nil {
			return nil, err
		}
		opts = append(opts, client.Deadline(t))
	}
	return opts, nil
}

func deadline(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		if d <= 0 {
			return time.Time{}, fmt.Errorf("--deadline %s: it has passed", text)
		}
		return now.Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("--deadline %q: want a duration such as 5m, or a time such as %s", text, now.Add(time.Hour).UTC().Format(time.RFC3339))
	}
	if !t.After(now) { // it would be stored, and be a dead letter at once
		return time.Time{}, fmt.Errorf("--deadline %s: it has passed", text)
	}
	return t, nil
}

func (c *enqueueCmd) one(ctx context.Context, app *App, cl *client.Client, t task.Raw, opts []client.PublishOption) error {
	ctx, cancel := app.limitAfter(ctx, c.Room)
	defer cancel()
	r, err := cl.Publish(ctx, t, opts...)
	if err != nil {
		if errors.Is(err, client.ErrUnknown) {
			err = hinted{err, "run the same again with --id " + r.ID + ": it runs once, whichever it is"}
		}
		return err
	}
	if app.JSON {
		return app.encode(c.receipt(r, nil))
	}
	verb := "enqueued"
	if r.Duplicate {
		verb = "already enqueued, nothing was stored:"
	}
	app.printf("%s %s\n\n", verb, c.Kind)
	app.printf("    id        %s\n", r.ID)
	app.printf("    stream    %s, sequence %d\n", r.Stream, r.Sequence)
	app.printf("    next      drover lanes --service %s\n", service(c.Kind))
	app.printf("              drover dead show %s    if it fails for good\n", r.ID)
	return nil
}

func (c *enqueueCmd) many(ctx context.Context, app *App, cl *client.Client, t task.Raw, opts []client.PublishOption) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	begin := time.Now()
	outcomes, err := client.PublishAll(ctx, cl, slices.Repeat([]task.Raw{t}, c.Count), opts...)
	took := time.Since(begin)
	if app.JSON {
		for _, o := range outcomes {
			if err := app.encode(c.receipt(o.Receipt, o.Err)); err != nil {
				return err
			}
		}
		return err
	}
	stored, first, last, stream := 0, uint64(0), uint64(0), ""
	for _, o := range outcomes {
		if o.Err != nil {
			continue
		}
		stored++
		stream, last = o.Stream, max(last, o.Sequence)
		first = min(cmp.Or(first, o.Sequence), o.Sequence)
	}
	if stored > 0 {
		app.printf("enqueued %s of %s %s in %s, %s/s\n\n", screen.Count(stored), screen.Count(c.Count), c.Kind, screen.Span(took), screen.Count(int(float64(stored)/took.Seconds())))
		app.printf("    stream    %s, sequences %d to %d\n", stream, first, last)
		app.printf("    next      drover lanes --service %s --watch\n", service(c.Kind))
	}
	return err
}

func (c *enqueueCmd) receipt(r client.Receipt, err error) enqueued {
	e := enqueued{
		ID: r.ID, Kind: c.Kind, Class: c.Class, Tenant: c.Tenant,
		Stream: r.Stream, Sequence: r.Sequence, Duplicate: r.Duplicate,
	}
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

// advise adds to the errors of publishing what an operator can do about them.
func (c *enqueueCmd) advise(app *App, err error) error {
	switch {
	case errors.Is(err, client.ErrFull):
		wait := ""
		if c.Room == 0 {
			wait = "; or wait with --wait-for-room 1m"
		}
		switch {
		case errors.Is(err, client.ErrAccountFull):
			return hinted{err, "see what fills it with `drover doctor`; raise max_file of the account, then redrive or discard dead letters: docs/operations.md, section 9" + wait}
		case errors.Is(err, client.ErrBrokerFull):
			return hinted{err, "see what fills it with `nats stream ls`; raise max_file_store of the broker: docs/operations.md, section 9" + wait}
		}
		return hinted{err, fmt.Sprintf("see what waits with `drover lanes --class %s`; start more workers, or raise max_bytes of the class in the fleet file and run `drover streams apply`%s", c.Class, wait)}
	case errors.Is(err, client.ErrNoStream):
		if fleet, ferr := app.fleet(); ferr == nil {
			return hinted{err, app.where() + " has " + served(fleet)}
		}
	}
	return err
}

// served lists the services of a fleet with their classes.
func served(f *streams.Fleet) string {
	text := make([]string, len(f.Services))
	for i, s := range f.Services {
		text[i] = s.Name + " (" + list(s.Classes) + ")"
	}
	return strings.Join(text, ", ")
}

func service(kind string) string {
	name, _, _ := strings.Cut(kind, ".")
	return name
}
