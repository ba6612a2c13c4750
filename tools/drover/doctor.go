package main

import (
	"context"
	"strings"
	"time"

	"github.com/droverhq/drover/tools/doctor"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type doctorCmd struct{}

// Help is the long text of --help.
func (doctorCmd) Help() string {
	return `It answers what is wrong with a fleet: the broker, a stream, a class without workers,
workers that wait, tasks that fail, or a destination. Each finding says what was seen
and where, what follows for users, and what to do; then comes what was looked at. The
worst is first, and what can be the cause of another stands before it.

It only reads, and takes no longer than --timeout. The exit code is 8 when something
was found, and 0 when nothing was.

Examples:

    drover doctor
    drover doctor --fleet fleet.yaml --nats nats://broker:4222 --creds admin.creds
    drover doctor --json | jq '.findings[].name'`
}

func (doctorCmd) Run(ctx context.Context, app *App) error {
	fleet, err := app.fleet()
	if err != nil {
		return err
	}
	r, err := doctor.Examine(ctx, doctor.Options{
		Fleet: fleet, URL: app.NATS, Creds: app.Creds, NKey: app.NKey, User: app.user(),
		Limit: app.Timeout, Host: doctor.ThisHost(), Contained: serviceNames(),
	})
	if err != nil {
		return usage(err)
	}
	if app.JSON {
		if err := app.encode(r); err != nil {
			return err
		}
	} else {
		app.diagnosis(r)
	}
	if !r.Healthy {
		return exitError(exitFindings)
	}
	return nil
}

const subjectWidth = 12 // columns of "destinations"

// diagnosis writes a report for people.
func (a *App) diagnosis(r doctor.Report) {
	style := screen.StyleOf(a.Stdout)
	switch n := len(r.Findings); n {
	case 0:
		a.printf("%s\n", style.Good("nothing is wrong with this fleet"))
	case 1:
		a.printf("1 finding\n")
	default:
		a.printf("%d findings, the worst first\n", n)
	}
	paint := map[doctor.Severity]func(string) string{doctor.Stopped: style.Bad, doctor.Failing: style.Bad, doctor.Slow: style.Odd}
	for _, f := range r.Findings {
		word := strings.ToUpper(string(f.Severity))
		if p := paint[f.Severity]; p != nil {
			word = p(word)
		}
		a.printf("\n%s  %s  %s\n", word, style.Bold(f.Wrong), style.Dim(f.Name))
		a.section("seen", f.Evidence)
		a.section("follows", []string{f.Follows})
		a.section("to do", f.Remedy)
	}
	a.printf("\nlooked at in %s\n", screen.Span(time.Duration(r.Took*float64(time.Second))))
	for _, c := range r.Checks {
		mark := style.Good("ok")
		switch {
		case c.Findings > 0:
			mark = style.Odd("! ")
		case c.Skipped:
			mark = style.Dim("- ")
		}
		a.printf("%s%s  %-*s  %s\n", indent, mark, subjectWidth, c.Subject, c.Text)
	}
}

// section writes lines of a finding under their name.
func (a *App) section(name string, lines []string) {
	for _, l := range lines {
		a.printf("%s%-7s  %s\n", indent, name, l)
		name = ""
	}
}
