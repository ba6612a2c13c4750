package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type deadShowCmd struct {
	letterName

	ID string `arg:"" name:"id" help:"The task's id, or the letter's sequence in DEAD."`
}

// Help is the long text of --help.
func (deadShowCmd) Help() string {
	return `Examples:

    drover dead show order-17-mail
    drover dead show 42 --by sequence
    drover dead show order-17-mail --json`
}

// story are the keys of dead show --json.
type story struct {
	letter

	Why       string         `json:"why"`
	Next      []string       `json:"next"` // what to do
	History   []step         `json:"history"`
	Failures  []task.Failure `json:"failures"`            // the first attempt and the last nine, as stored
	Arguments any            `json:"arguments,omitempty"` // decoded
	Body      []byte         `json:"body,omitempty"`      // as stored, in base64, when it cannot be decoded
	BodyError string         `json:"body_error,omitempty"`
}

type step struct {
	At    *time.Time `json:"at,omitempty"`
	Text  string     `json:"text"`
	Trace string     `json:"trace,omitempty"`
}

func (c *deadShowCmd) Run(ctx context.Context, app *App) error {
	js, done, err := app.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := app.limit(ctx)
	defer cancel()
	l, err := c.find(ctx, js, c.ID)
	if err != nil {
		return patient(ctx, err)
	}
	s := storyOf(ctx, js, l)
	if app.JSON {
		return app.encode(s)
	}
	app.tell(l, s)
	return nil
}

func storyOf(ctx context.Context, js jetstream.JetStream, l deadletter.Letter) story {
	e := deadletter.Explain(l)
	s := story{letter: letterOf(l), Why: e.Why, Next: e.Next, Failures: l.Errors}
	for _, h := range e.History {
		at := h.At.UTC()
		one := step{At: &at, Text: h.Text, Trace: h.Trace}
		if h.At.IsZero() {
			one.At = nil
		}
		s.History = append(s.History, one)
	}
	args, err := l.Arguments(ctx, js)
	if err != nil {
		s.BodyError, s.Body = err.Error(), l.Body
		return s
	}
	s.Arguments = jsonable(args)
	return s
}

const indent = "    "

// tell writes the story for people.
func (a *App) tell(l deadletter.Letter, s story) {
	a.printf("%s %s\n\n", s.Kind, screen.Plain(s.ID))
	a.printf("%sdead letter  %d\n", indent, s.Sequence)
	a.printf("%sclass        %s\n", indent, s.Class)
	if s.Tenant != "" {
		a.printf("%stenant       %s\n", indent, s.Tenant)
	}
	a.printf("%sreason       %s\n", indent, screen.Plain(string(s.Reason)))
	if s.Generation > 0 {
		a.printf("%sredriven     %d times before\n", indent, s.Generation)
	}
	if s.Trace != "" {
		a.printf("%strace        %s\n", indent, s.Trace)
	}
	a.printf("\nWhat happened\n")
	blank := strings.Repeat(" ", len(time.DateTime)+len(".000"))
	for _, h := range s.History {
		at := blank
		if h.At != nil {
			at = h.At.Local().Format(time.DateTime + ".000")
		}
		text := strings.ReplaceAll(printable(h.Text), "\n", "\n"+indent+blank+"  ")
		if h.Trace != "" {
			text += " (trace " + h.Trace + ")"
		}
		a.printf("%s%s  %s\n", indent, at, text)
	}
	a.printf("\nWhy\n%s%s\n", indent, printable(s.Why))
	a.printf("\nArguments\n")
	if s.BodyError != "" {
		a.printf("%s%s\n", indent, screen.Plain(s.BodyError))
		a.printf("%s%s\n", indent, peek(l.Body))
	} else {
		text, err := json.MarshalIndent(s.Arguments, indent, "  ")
		if err != nil {
			text = []byte(err.Error())
		}
		a.printf("%s%s\n", indent, printable(string(text)))
	}
	a.printf("\nWhat to do\n")
	for _, n := range s.Next {
		a.printf("%s- %s\n", indent, printable(n))
	}
}

const peekBytes = 64

// peek shows how an undecodable body begins.
func peek(body []byte) string {
	if len(body) == 0 {
		return "the body is empty"
	}
	head := body[:min(len(body), peekBytes)]
	text := fmt.Sprintf("%d bytes: %x", len(body), head)
	if len(head) < len(body) {
		text += "…"
	}
	return text
}

// jsonable replaces what msgpack has and JSON has not.
func jsonable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = jsonable(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = jsonable(e)
		}
		return out
	case float32:
		return jsonable(float64(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v)
		}
	}
	return v
}
