package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/keyring"
	"github.com/droverhq/drover/tools/supervise/screen"
)

type keysCmd struct {
	Dir    string   `default:"keys" placeholder:"DIR" help:"Folder of the keys. The default is ${default}."`
	Rotate []string `placeholder:"USER" help:"Give this user a new key; the broker takes the old one too, until it is retired."`
	Retire []string `placeholder:"USER" help:"Remove the old key of this user, once all of its processes have the new one."`
}

// Help is the long text of --help.
func (keysCmd) Help() string {
	return `Makes an nkey for each service and producer of the fleet file, for the drover
command, the deadletter service and the broker's system account, each in DIR/<name>.nk.
A key that is there is kept. Then it writes DIR/accounts.conf, which the brokers
include: the public keys, and what each user may do. Nothing is sent anywhere; have
every broker read the file with ` + "`nats-server --signal reload`" + `.

Examples:

    drover keys --fleet fleet.yaml --dir /etc/drover/keys
    drover keys --rotate email         # reload brokers, give email its new seed, then
    drover keys --retire email         # and reload the brokers again`
}

func (c keysCmd) Run(app *App) error {
	fleet, err := app.fleet()
	if err != nil {
		return err
	}
	for _, user := range append(c.Rotate, c.Retire...) {
		if !slices.ContainsFunc(fleet.Users(), func(u streams.User) bool { return u.Name == user }) {
			return usage(fmt.Errorf("%s has no service or producer %q, and Drover has no user of that name", app.where(), user))
		}
	}
	for _, user := range c.Retire {
		if err := keyring.Retire(c.Dir, user); err != nil {
			return usage(fmt.Errorf("--retire: %w", err))
		}
	}
	for _, user := range c.Rotate {
		if err := keyring.Rotate(c.Dir, user); err != nil {
			return usage(fmt.Errorf("--rotate: %w", err))
		}
	}
	list, changed, err := keyring.Write(c.Dir, fleet)
	if err != nil {
		return err
	}
	if app.JSON {
		for _, k := range list {
			if err := app.encode(k); err != nil {
				return err
			}
		}
		return nil
	}
	t := screen.Table{Head: []string{"USER", "ROLE", "KEY", "STATE", "FILE"}}
	for _, k := range list {
		t.Add(k.User, cmp.Or(string(k.Role), "-"), k.Key, string(k.State), k.File)
	}
	app.table(&t, give{"KEY", 12}, give{"ROLE", 0}, give{"KEY", 0}, give{"FILE", 16})
	conf := filepath.Join(c.Dir, keyring.ConfFile)
	if !changed {
		app.printf("\n%s is as %s wants it\n", conf, app.where())
		return nil
	}
	app.printf("\n%s is written: give it to every broker and reload them.\n", conf)
	return nil
}
