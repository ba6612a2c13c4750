package service

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// flags are those that every service has.
type flags struct {
	NATS  string        `name:"nats" env:"DROVER_NATS_URL" default:"${nats}" placeholder:"URL" help:"Broker to connect to; separate the URLs of a cluster by commas. The default is ${default}."`
	Creds string        `env:"DROVER_CREDS" type:"existingfile" placeholder:"FILE" help:"Credentials of the NATS user to connect as."`
	NKey  string        `name:"nkey" env:"DROVER_NKEY" type:"existingfile" placeholder:"FILE" help:"Seed of the nkey to connect with, instead of credentials."`
	Wait  time.Duration `name:"nats-wait" env:"DROVER_NATS_WAIT" default:"30s" help:"How long to wait for the broker at the start."`

	FleetFile string       `name:"fleet" env:"DROVER_FLEET" type:"existingfile" placeholder:"FILE" help:"Fleet file. Without one the built-in fleet.yaml holds."`
	Class     []task.Class `env:"DROVER_CLASS" placeholder:"CLASS" help:"Take tasks of this class only; may be repeated. Without it, of all classes that the fleet file gives the service."`
	Pool      worker.Pool  `env:"DROVER_POOL" enum:"all,live,retry" default:"all" help:"Which tasks to take: live ones, due retries, or all."`

	Admin string        `env:"DROVER_ADMIN_ADDR" default:"${admin}" placeholder:"HOST:PORT" help:"Where /healthz, /readyz and /metrics are; empty for nowhere, port 0 for any free one. The default is ${admin_default}."`
	Drain time.Duration `env:"DROVER_DRAIN" default:"25s" help:"How long running tasks may go on after SIGTERM, before they are given back."`

	RecycleAfter int  `env:"DROVER_RECYCLE_AFTER" default:"0" placeholder:"TASKS" help:"Ask for a fresh process once so many tasks are settled; 0, the default, for never."`
	RecycleAbove size `env:"DROVER_RECYCLE_ABOVE" default:"0" placeholder:"SIZE" help:"Ask for a fresh process once this one occupies more memory than that, such as 200MiB; 0, the default, for never."`

	LogLevel  slog.Level `env:"DROVER_LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat string     `env:"DROVER_LOG_FORMAT" enum:"text,json" default:"text" help:"Format of the log on standard error: text or json."`

	Version kong.VersionFlag `help:"Show the version and exit."`
}

// grammar is what kong fills in: the service's own flags and then the common ones.
type grammar struct {
	Config any   `embed:"" group:"own"`
	Common flags `embed:"" group:"common"`

	examples string
}

// Help is the long text of --help.
func (g *grammar) Help() string { return g.examples }

func (s Service) examples() string {
	if s.NoTasks {
		return examplesNoTasks + exits
	}
	return examples + exits
}

const examplesNoTasks = `A flag beats its environment variable. Traces and metrics are sent as the
OTEL_ variables of OpenTelemetry say, for example OTEL_EXPORTER_OTLP_ENDPOINT.
It takes no tasks, so --class and --pool are refused.

Examples:

    %[1]s --nats nats://broker:4222 --creds /etc/drover/%[2]s.creds
    DROVER_LOG_FORMAT=json %[1]s --fleet fleet.yaml`

const examples = `A flag beats its environment variable. Traces and metrics are sent as the
OTEL_ variables of OpenTelemetry say, for example OTEL_EXPORTER_OTLP_ENDPOINT.

Examples:

    %[1]s --nats nats://broker:4222 --creds /etc/drover/%[2]s.creds
    %[1]s --class urgent               # a process for one class alone
    %[1]s --pool retry --admin :9090   # the retries of all classes
    DROVER_LOG_FORMAT=json %[1]s --fleet fleet.yaml
    %[1]s --class slow --drain 15m     # no running task is cut short by a restart
    %[1]s --recycle-after 1000 --recycle-above 200MiB

A process that asks to be recycled drains, one of a service at a time, and exits
with 75: run it under a supervisor that starts it again. Give that supervisor the
drain limit and 35 s before it kills.`

const exits = `

Exit codes: 0 drained after SIGTERM or SIGINT, 1 error, 2 crash, 5 the broker cannot
be reached or is too old, 75 start a fresh process (it is worn, or too many handlers
ignore their cancelled context), 78 wrong flags or environment: do not restart.`

// settings are the checked flags, and what they lead to.
type settings struct {
	flags

	fleet   *streams.Fleet
	classes []streams.Class // that this process serves
}

// configure reads args and the environment into s.Config and the settings. They
// are nil without an error when the arguments asked for help or the version, which
// is then written. All errors wrap ErrUsage.
func configure(s Service, args []string, stdout io.Writer) (*settings, error) {
	c, err := parse(s, args, stdout)
	if err == nil && c != nil {
		err = c.resolve(s)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return c, nil
}

func parse(s Service, args []string, stdout io.Writer) (*settings, error) {
	if s.Name == "" || s.Run == nil {
		return nil, errors.New("a service needs a name and a function to run")
	}
	exited := false
	g := &grammar{Config: s.Config, examples: fmt.Sprintf(s.examples(), s.usage(), s.Name)}
	parser, err := kong.New(g,
		kong.Name(s.usage()),
		kong.Description(s.Help),
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { exited = true }),
		kong.Vars{
			"nats": broker.DefaultURL, "admin": s.Admin, "admin_default": cmp.Or(s.Admin, "nowhere"),
			"version": s.Name + " " + build(),
		},
		kong.ExplicitGroups([]kong.Group{
			{Key: "own", Title: "Flags of " + s.Name + ":"},
			{Key: "common", Title: "Flags of every service:"},
		}),
	)
	if err != nil {
		return nil, err
	}
	kctx, err := parser.Parse(args)
	if exited { // help or version is out; what else is missing does not matter
		return nil, nil //nolint:nilnil // documented at configure
	}
	if err == nil {
		err = noTime(kctx.Flags())
	}
	if err != nil {
		return nil, err
	}
	return &settings{flags: g.Common}, nil
}

// noTime refuses a duration of nothing for the service's own flags. A configuration
// that is made by a program takes it for the default, which on a command line nobody
// can mean. A flag whose default it is says what it stands for.
func noTime(all []*kong.Flag) error {
	var errs []error
	for _, f := range all {
		d, ok := reflect.TypeAssert[time.Duration](f.Target)
		if ok && d == 0 && f.Group != nil && f.Group.Key == "own" && f.HasDefault && f.Default != "0" {
			errs = append(errs, fmt.Errorf("--%s %v: want more than nothing", f.Name, d))
		}
	}
	return errors.Join(errs...)
}

// resolve reads the fleet file and checks what kong cannot.
func (c *settings) resolve(s Service) error {
	var errs []error
	if c.Creds != "" && c.NKey != "" {
		errs = append(errs, errors.New("--creds and --nkey: give one of them"))
	}
	if c.Wait < 0 || c.Drain < 0 {
		errs = append(errs, fmt.Errorf("--nats-wait %v and --drain %v: neither can be negative", c.Wait, c.Drain))
	}
	if c.RecycleAfter < 0 {
		errs = append(errs, fmt.Errorf("--recycle-after %d: want 0 for never, or more", c.RecycleAfter))
	}
	if c.Admin != "" {
		if _, _, err := net.SplitHostPort(c.Admin); err != nil {
			errs = append(errs, fmt.Errorf("--admin: %w: want HOST:PORT", err))
		}
	}
	errs = append(errs, c.loadFleet(s))
	if s.Check != nil {
		errs = append(errs, s.Check())
	}
	return errors.Join(errs...)
}

func (c *settings) loadFleet(s Service) error {
	where := "the built-in fleet.yaml"
	c.fleet = streams.Default()
	if c.FleetFile != "" {
		where = c.FleetFile
		var err error
		if c.fleet, err = streams.Load(c.FleetFile); err != nil {
			return fmt.Errorf("--fleet: %w", err)
		}
	}
	if s.NoTasks {
		if len(c.Class) > 0 || c.Pool != worker.AllPools {
			return fmt.Errorf("--class, --pool: %s takes no tasks", s.Name)
		}
		return nil
	}
	have, ok := c.fleet.Service(s.Name)
	if !ok {
		return fmt.Errorf("%s has no service %q: add it there, or name another file with --fleet", where, s.Name)
	}
	wanted := c.Class
	if len(wanted) == 0 {
		wanted = have.Classes
	}
	seen := map[task.Class]bool{}
	for _, name := range wanted {
		class, ok := c.fleet.Class(name)
		switch {
		case !ok || !have.Serves(name):
			return fmt.Errorf("--class %s: %s lets %s serve %s", name, where, s.Name, list(have.Classes))
		case !seen[name]:
			c.classes = append(c.classes, class)
		}
		seen[name] = true
	}
	return nil
}

func list(classes []task.Class) string {
	names := make([]string, len(classes))
	for i, c := range classes {
		names[i] = string(c)
	}
	return strings.Join(names, ", ")
}
