package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/droverhq/drover/services/cmd/catalog"
	startup "github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/tools/demo"
	"github.com/droverhq/drover/tools/supervise"
)

type runCmd struct {
	Service []string `arg:"" name:"service" passthrough:"" help:"Name of the service, and then its flags."`
}

// Help is the long text of --help.
func (runCmd) Help() string {
	return `All that follows the name is the service's: "drover run email --help" lists its
flags. Its own binary takes the same ones. A service that this command does not
contain, such as one of a repository of your own, is started from its own binary.

Examples:

    drover run email --smtp-addr localhost:1025 --smtp-tls none --smtp-from drover@example.com
    drover run webhook --class urgent --admin :9090
    drover run email --pool retry`
}

// Run is the service's own main function: same flags, same log, same exit codes.
func (c *runCmd) Run(ctx context.Context, app *App) error {
	supervise.EndWithParent()
	name := c.Service[0]
	s, ok := find(name)
	if !ok {
		return usage(fmt.Errorf("run %s: this command contains no such service, only %s: start any other from its own binary", name, list(serviceNames())))
	}
	s.Usage = "drover run " + name
	args := append(app.given(c.Service[1:]), c.Service[1:]...)
	if code := startup.Exec(ctx, s, args, app.Stdout, app.Stderr); code != exitOK {
		return exitError(code)
	}
	return nil
}

// find is catalog.Find with the service that only `drover demo` runs.
func find(name string) (startup.Service, bool) {
	if s := demo.Service(); s.Name == name {
		return s, true
	}
	return catalog.Find(name)
}

// contains reports whether this command can start a service of a fleet file.
func contains(name string) bool {
	_, ok := catalog.Find(name)
	return ok
}

// howToStart says how to start one process more of a service.
func howToStart(name string) string {
	if contains(name) {
		return "with `drover run " + name + "`"
	}
	return "from its own binary, which is not part of this command"
}

func serviceNames() []string {
	var out []string
	for _, s := range catalog.All() {
		out = append(out, s.Name)
	}
	return out
}

// given are the common flags that came before the name of the service, for the
// service to read. What the environment says, it reads by itself, and what is
// said again after its name, in own, is what counts.
func (a *App) given(own []string) []string {
	var args []string
	for _, f := range []struct{ flag, value, env, otherwise string }{
		{"--nats", a.NATS, "DROVER_NATS_URL", broker.DefaultURL},
		{"--creds", a.Creds, "DROVER_CREDS", ""},
		{"--nkey", a.NKey, "DROVER_NKEY", ""},
		{"--fleet", a.Fleet, "DROVER_FLEET", ""},
	} {
		env := os.Getenv(f.env)
		again := slices.ContainsFunc(own, func(w string) bool { return w == f.flag || strings.HasPrefix(w, f.flag+"=") })
		// Of a relative path in the environment the value is the absolute one.
		if again || f.value == cmp.Or(env, f.otherwise) || env != "" && f.value == kong.ExpandPath(env) {
			continue
		}
		args = append(args, f.flag, f.value)
	}
	return args
}
