package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/audit"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/deadletter"
)

type deadEditCmd struct {
	letterName
	letterFilter
	manyFlags
	canaryFlags
	deed

	IDs      []string `arg:"" optional:"" name:"id" help:"The tasks' ids, or the letters' sequences in DEAD."`
	Set      []string `sep:"none" placeholder:"KEY=VALUE" help:"Give an argument another value; several times for several. KEY:=JSON takes any JSON, a.b is b in a, a.0 the first of a list."`
	BodyFile string   `placeholder:"FILE" help:"All arguments as JSON; - is standard input."`
}

// Help is the long text of --help.
func (deadEditCmd) Help() string {
	return `Without --set and --body-file the arguments of one letter open in $VISUAL or
$EDITOR. What JSON has no word for is an object of one key: {"$bin": BASE64},
{"$time": RFC 3339}, {"$msgpack": BASE64}. What is not edited stays as it is to the
byte. With --set a string stays one, and a number must stay one; KEY:=JSON changes
that.

The task runs again at once, as with redrive, and the letter stays until it is
stored. Letters that filters choose go as a canary, as with redrive. The audit trail
keeps who did it, and fingerprints of the arguments before and after, not themselves.

Examples:

    drover dead edit order-17-mail
    drover dead edit order-17-mail --set to=ada@example.org --set retries:=3
    drover dead edit order-17-mail --body-file mail.json --why 'wrong template'
    drover dead edit --group 3f9a0c17d2b4 --set to=ada@example.org --dry-run`
}

// Validate is called by kong.
func (c *deadEditCmd) Validate() error {
	if err := firstError(c.check(c.IDs, c.letterFilter), c.waits()); err != nil {
		return err
	}
	switch {
	case len(c.Set) > 0 && c.BodyFile != "":
		return errors.New("--set and --body-file: give one of them")
	case len(c.Set) == 0 && len(c.IDs) != 1:
		return errors.New("several letters are edited with --set only")
	}
	return firstError(c.set(&deadletter.Document{}, true))
}

// set makes the changes that --set says, or only sees whether it can be read.
func (c *deadEditCmd) set(d *deadletter.Document, only bool) error {
	for _, w := range c.Set {
		key, text, ok := strings.Cut(w, "=")
		key, raw := strings.CutSuffix(key, ":")
		switch {
		case !ok || key == "":
			return fmt.Errorf("--set %q: want KEY=VALUE, or KEY:=JSON", w)
		case only:
		case raw:
			if err := d.SetJSON(key, text); err != nil {
				return err
			}
		default:
			if err := d.Set(key, text); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *deadEditCmd) Run(ctx context.Context, app *App) error {
	now := time.Now()
	f, err := c.filter(now)
	if err != nil {
		return usage(err)
	}
	e := audit.Entry{Verb: "dead.edit", By: c.As, Reason: c.Why, Filter: c.keys()}
	if len(c.IDs) > 0 {
		return app.moving(ctx, func(ctx context.Context, m *mover) error {
			var errs []error
			for _, id := range c.IDs {
				if ctx.Err() != nil {
					return errors.Join(append(errs, errInterrupted)...)
				}
				errs = append(errs, c.single(ctx, m, id, e))
			}
			return errors.Join(errs...)
		})
	}
	e.Filter = strings.TrimSpace(c.words(now) + " " + e.Filter)
	return app.many(ctx, many{
		manyFlags: c.manyFlags, filter: f, entry: e, done: "edited and redriven",
		do: func(ctx context.Context, m *mover, a *act, census deadletter.Census) (map[string]int, error) {
			return m.canary(ctx, a, c.canaryFlags, f, census, "edited", func(ctx context.Context, l deadletter.Letter) (client.Receipt, error) {
				_, body, err := c.edited(ctx, m, &l, func(d *deadletter.Document) error { return c.set(d, false) })
				if err != nil {
					return client.Receipt{}, fmt.Errorf("edit %s %s: %w", l.Subject.Kind(), l.ID, err)
				}
				return deadletter.Amend(ctx, m.js, l, body, a.entry.Act, deadletter.TracerProvider(m.traces))
			})
		},
	})
}

// keys says what is edited without its values, which are the task's own business.
func (c *deadEditCmd) keys() string {
	var out []string
	for _, w := range c.Set {
		key, _, _ := strings.Cut(w, "=")
		out = append(out, "--set "+shellWord(strings.TrimSuffix(key, ":")))
	}
	return strings.Join(out, " ")
}

// edited returns the letter's body before and after a change, which is one.
func (c *deadEditCmd) edited(ctx context.Context, m *mover, l *deadletter.Letter, change func(*deadletter.Document) error) (before, after []byte, err error) {
	d := &deadletter.Document{}
	before, err = l.Content(ctx, m.js)
	if err == nil {
		d, err = deadletter.NewDocument(before)
	}
	if err != nil && c.BodyFile == "" {
		return nil, nil, fmt.Errorf("%w: its arguments cannot be shown: give all of them with --body-file", err)
	}
	if d == nil {
		d = &deadletter.Document{}
	}
	if err := change(d); err != nil {
		return nil, nil, err
	}
	after, err = d.Body()
	if err == nil && len(before) > 0 && bytes.Equal(before, after) {
		err = fmt.Errorf("%w: they are as before: nothing was done", deadletter.ErrEdit)
	}
	return before, after, err
}

// single edits one letter and redrives it.
func (c *deadEditCmd) single(ctx context.Context, m *mover, name string, e audit.Entry) error {
	lctx, cancel := m.app.limit(ctx)
	defer cancel()
	l, err := c.find(lctx, m.js, name)
	if err != nil {
		return m.told(name, l, moved{}, patient(lctx, err))
	}
	kept := ""
	before, after, err := c.edited(lctx, m, &l, func(d *deadletter.Document) error {
		switch {
		case len(c.Set) > 0:
			return c.set(d, false)
		case c.BodyFile != "":
			text, err := m.app.read(c.BodyFile)
			if err != nil {
				return usage(fmt.Errorf("--body-file: %w", err))
			}
			return d.Edit(text)
		}
		kept, err = m.app.edit(ctx, d)
		return err
	})
	did := moved{}
	switch {
	case err != nil:
		err = fmt.Errorf("edit %s %s: %w", l.Subject.Kind(), l.ID, deadError(err))
	case c.DryRun:
		return m.app.preview(l, after)
	default:
		e.Targets, e.Old, e.New = []string{l.ID}, printOf(before), printOf(after)
		did, err = c.amend(ctx, m, l, after, e)
	}
	switch {
	case kept == "":
	case err == nil || errors.Is(err, deadletter.ErrEdit) && strings.Contains(err.Error(), "as before"):
		_ = os.Remove(kept)
	default:
		err = hinted{err, "the edited arguments are in " + kept + ": mend them there, and give them with --body-file"}
	}
	return m.told(name, l, did, err)
}

func (c *deadEditCmd) amend(ctx context.Context, m *mover, l deadletter.Letter, body []byte, e audit.Entry) (moved, error) {
	a, err := beginAct(ctx, m.js, e)
	if err != nil {
		return moved{}, err
	}
	did, err := m.one(ctx, l, func(ctx context.Context, m *mover, l deadletter.Letter) (moved, error) {
		r, err := deadletter.Amend(ctx, m.js, l, body, a.entry.Act, deadletter.TracerProvider(m.traces))
		return movedTo("edited", r), err
	})
	did.Duplicate = false // it is with this edit, or an error
	return did, a.end(ctx, map[string]int{resultOf(did, err): 1}, err)
}

// printOf is a fingerprint of arguments, by which the trail tells them apart.
func printOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:6])
}

// read returns what a file holds; - is standard input.
func (a *App) read(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(a.Stdin)
	}
	return os.ReadFile(file)
}

// preview shows what an edit would make of a letter.
func (a *App) preview(l deadletter.Letter, body []byte) error {
	d, err := deadletter.NewDocument(body)
	if err != nil {
		return err
	}
	if a.JSON {
		return a.encode(d)
	}
	a.printf("%s %s would run again with these arguments; nothing was done\n\n%s", l.Subject.Kind(), l.ID, printable(string(d.JSON())))
	return nil
}
