package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type helpCmd struct {
	About []string `arg:"" optional:"" placeholder:"VERB|TOPIC" help:"A verb, or the topic exit-codes."`
}

// Help is the long text of --help.
func (helpCmd) Help() string {
	return `Examples:

    drover help
    drover help dead redrive
    drover help exit-codes`
}

func (c helpCmd) Run(app *App, parser *kong.Kong) error {
	if slices.Equal(c.About, []string{"exit-codes"}) {
		app.printf("%s", exitCodes)
		return nil
	}
	kctx, err := kong.Trace(parser, c.About)
	if err == nil {
		err = kctx.Error
	}
	if err != nil {
		return usage(fmt.Errorf("no help about %s: %w", strings.Join(c.About, " "), err))
	}
	return kctx.PrintUsage(false)
}
