package main

import (
	"runtime"
	"runtime/debug"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	startup "github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/broker"
)

type versionCmd struct{}

// Help is the long text of --help.
func (versionCmd) Help() string {
	return `Examples:

    drover version
    drover version --json`
}

// versions are the keys of version --json.
type versions struct {
	Version  string `json:"version"`            // of drover; "(devel)" when its build knew none
	Revision string `json:"revision,omitempty"` // the commit it was built from
	Modified bool   `json:"modified,omitempty"` // there were changes on top of it
	Server   string `json:"nats_server"`        // linked, for drover up and bench
	Client   string `json:"nats_go"`
	Least    string `json:"nats_server_least"` // the oldest broker that it works with
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

func (versionCmd) Run(app *App) error {
	v := versions{
		Version: startup.Version(), Server: server.VERSION, Client: nats.Version, Least: broker.MinVersion,
		Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	if app.JSON {
		return app.encode(v)
	}
	revision := ""
	if v.Revision != "" {
		revision = ", revision " + v.Revision
	}
	if v.Modified {
		revision += " with changes"
	}
	app.printf("drover       %s%s\n", v.Version, revision)
	app.printf("nats-server  %s built in; brokers from %s on\n", v.Server, v.Least)
	app.printf("nats.go      %s\n", v.Client)
	app.printf("go           %s %s/%s\n", v.Go, v.OS, v.Arch)
	return nil
}
