// Command drover runs a fleet, looks at it, and gives it work.
//
// Each verb has a file of its name here; what it does is in the packages that the
// services use too. `drover --help` lists the verbs, docs/commands.md explains
// them, with the keys of --json and the exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/droverhq/drover/shared/broker"
)

// cli is the grammar: one field for each verb, in the order of the help.
type cli struct {
	Globals

	Up   upCmd   `cmd:"" group:"run" help:"Run the broker and the fleet on this machine."`
	Demo demoCmd `cmd:"" group:"run" help:"Put real work through a fleet and account for every task."`
	Run  runCmd  `cmd:"" group:"run" help:"Run one service, as its own binary does."`

	Enqueue  enqueueCmd  `cmd:"" group:"work" help:"Publish a task, or many."`
	Lanes    lanesCmd    `cmd:"" group:"work" help:"Show what waits, runs and died, by class and service."`
	Tasks    tasksCmd    `cmd:"" group:"work" help:"List tasks that are under way, and show one."`
	Ps       psCmd       `cmd:"" group:"work" help:"Show which processes run, and what they do."`
	Pause    pauseCmd    `cmd:"" group:"work" help:"Hold back the tasks of a class, a service, or one class of one service."`
	Resume   resumeCmd   `cmd:"" group:"work" help:"End a pause before its time."`
	Breakers breakersCmd `cmd:"" group:"work" help:"Show, open or close the circuit breakers of destinations."`
	Caps     capsCmd     `cmd:"" group:"work" help:"Show how many tasks use each resource, and what they may."`
	Limits   limitsCmd   `cmd:"" group:"work" help:"Show the rate limits that are in use."`
	Dead     deadCmd     `cmd:"" group:"work" help:"Count, explain, redrive, edit or discard dead letters."`
	Audit    auditCmd    `cmd:"" group:"work" help:"Show who did what, and why."`

	Doctor  doctorCmd  `cmd:"" group:"keep" help:"Say what is wrong with the fleet, and what to do."`
	Streams streamsCmd `cmd:"" group:"keep" help:"Show or make what the broker must hold for the fleet."`
	Keys    keysCmd    `cmd:"" group:"keep" help:"Make the keys of the fleet, and the broker's file of who may do what."`
	Bench   benchCmd   `cmd:"" group:"keep" help:"Measure how fast tasks go, against bare nats.go."`
	Version versionCmd `cmd:"" group:"keep" help:"Show versions of the command, nats-server and Go."`
	Help    helpCmd    `cmd:"" group:"keep" help:"Help about a verb or a topic, such as exit-codes."`
}

func main() {
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one invocation and returns its exit code.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var c cli
	app := &App{Stdin: stdin, Stdout: stdout, Stderr: stderr}
	exited := false
	parser, err := newParser(&c, stdout, stderr, &exited)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "drover: %v\n", err)
		return exitFailed
	}
	kctx, err := parser.Parse(args)
	if exited { // the help is out
		return exitOK
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "drover: %v\nRun \"%s --help\" for usage.\n", err, named(err))
		return exitUsage
	}
	app.Globals = c.Globals
	app.Named = slices.ContainsFunc(kctx.Path, func(p *kong.Path) bool { return p.Flag != nil && p.Flag.Name == "nats" })
	kctx.BindTo(ctx, (*context.Context)(nil))
	return app.end(kctx.Run(app, parser))
}

func newParser(c *cli, stdout, stderr io.Writer, exited *bool, more ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append([]kong.Option{
		kong.Name("drover"),
		kong.Description("Drover runs tasks over NATS JetStream: published once, run under a lease, retried, and never lost."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { *exited = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: helpWidth}),
		kong.Vars{"nats": broker.DefaultURL},
		kong.ExplicitGroups([]kong.Group{
			{Key: "run", Title: "Run a fleet:"},
			{Key: "work", Title: "Give it work and watch it:"},
			{Key: "keep", Title: "Keep it in order:"},
			{Key: "all", Title: "Flags of every verb:"},
		}),
	}, more...)...)
}

const helpWidth = 80 // columns, however wide the terminal is

// named is how the verb that a parse error is about was invoked.
func named(err error) string {
	perr, ok := errors.AsType[*kong.ParseError](err)
	if !ok || perr.Context == nil {
		return "drover"
	}
	verb, _, _ := strings.Cut(perr.Context.Command(), " <")
	return strings.TrimSpace("drover " + verb)
}
