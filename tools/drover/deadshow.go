package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type deadShowCmd struct {
	letterName

	ID     string `arg:"" name:"id" help:"The task's id, or the letter's sequence in DEAD."`
	Jaeger string `env:"DROVER_JAEGER_URL" default:"http://localhost:16686" placeholder:"URL" help:"Where Jaeger shows traces. The default is ${default}."`
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

	Why      string         `json:"why"`
	Next     []string       `json:"next"` // what to do
	History  []step         `json:"history"`
	Failures []task.Failure `json:"failures"`           // the first attempt and the last nine, as stored
	Moves    int            `json:"moves"`              // of this generation
	Stored   int            `json:"stored_bytes"`       // of the body in the letter
	Encoding string         `json:"encoding,omitempty"` // zstd
	Ref      string         `json:"ref,omitempty"`      // name of the body in BODIES
	Edited   string         `json:"edited,omitempty"`   // the act by which its arguments were edited last
	Jaeger   string         `json:"jaeger,omitempty"`   // where its trace is shown

	arguments
}

type step struct {
	At    *time.Time `json:"at,omitempty"`
	Text  string     `json:"text"`
	Trace string     `json:"trace,omitempty"`
}

func (c *deadShowCmd) Run(ctx context.Context, app *App) error {
	var s story
	err := app.talk(ctx, func(ctx context.Context, js jetstream.JetStream) error {
		l, err := c.find(ctx, js, c.ID)
		if err == nil {
			s = c.storyOf(ctx, js, l)
		}
		return err
	})
	if err != nil {
		return err
	}
	if app.JSON {
		return app.encode(s)
	}
	app.tell(s)
	return nil
}

func (c *deadShowCmd) storyOf(ctx context.Context, js jetstream.JetStream, l deadletter.Letter) story {
	e := deadletter.Explain(l)
	s := story{
		letter: letterOf(l), Why: e.Why, Next: e.Next, Failures: l.Errors, Moves: l.Hop, Stored: len(l.Body), Encoding: l.Encoding, Ref: l.Ref,
		Edited: l.Header.Get(task.HeaderEdited),
	}
	if s.Trace != "" {
		s.Jaeger = strings.TrimSuffix(c.Jaeger, "/") + "/trace/" + s.Trace
	}
	for _, h := range e.History {
		s.History = append(s.History, step{At: instant(h.At), Text: h.Text, Trace: h.Trace})
	}
	content, err := l.Content(ctx, js)
	s.arguments = argumentsOf(content, err, l.Body)
	return s
}

const indent = "    "

// tell writes the story for people.
func (a *App) tell(s story) {
	a.printf("%s %s\n\n", s.Kind, screen.Plain(s.ID))
	fact := func(name, format string, args ...any) {
		a.printf("%s%-13s%s\n", indent, name, screen.Plain(fmt.Sprintf(format, args...)))
	}
	fact("dead letter", "%d", s.Sequence)
	fact("class", "%s", s.Class)
	if s.Tenant != "" {
		fact("tenant", "%s", s.Tenant)
	}
	fact("reason", "%s", s.Reason)
	fact("group", "%s", s.Group)
	fact("attempts", "%d failed, %s, %s", s.Attempts, screen.Some(s.Deaths, "death", "deaths"), screen.Some(s.Moves, "move", "moves"))
	if s.Generation > 0 {
		fact("redriven", "%s before", screen.Some(s.Generation, "time", "times"))
	}
	if s.Edited != "" {
		fact("edited", "its arguments: drover audit ls --act %s", s.Edited)
	}
	if s.Trace != "" {
		fact("trace", "%s", s.Jaeger)
	}
	fact("all traces", "in Jaeger search for the tag task.id=%s", s.ID)
	a.printf("\nWhat happened\n")
	blank := strings.Repeat(" ", len(millis))
	for _, h := range s.History {
		at := blank
		if h.At != nil {
			at = h.At.Local().Format(millis)
		}
		text := strings.ReplaceAll(printable(h.Text), "\n", "\n"+indent+blank+"  ")
		if h.Trace != "" {
			text += " (trace " + h.Trace + ")"
		}
		a.printf("%s%s  %s\n", indent, at, text)
	}
	a.printf("\nWhy\n%s%s\n", indent, printable(s.Why))
	a.printf("\nArguments%s\n", s.packing())
	s.tellArguments(a)
	a.printf("\nWhat to do\n")
	for _, n := range s.Next {
		a.printf("%s- %s\n", indent, printable(n))
	}
	if s.BodyError == "" {
		a.printf("%s- If its arguments are wrong: drover dead edit %d\n", indent, s.Sequence)
	}
}

// packing says how the body is stored, where that is not as it is.
func (s *story) packing() string {
	switch {
	case s.Ref != "" && s.Encoding != "":
		return " (" + s.Encoding + ", from " + task.BodiesBucket + ": " + screen.Plain(s.Ref) + ")"
	case s.Ref != "":
		return " (from " + task.BodiesBucket + ": " + screen.Plain(s.Ref) + ")"
	case s.Encoding != "":
		return " (" + screen.Plain(s.Encoding) + ")"
	}
	return ""
}
