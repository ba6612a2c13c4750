package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/droverhq/drover/shared/deadletter"
)

// edit lets the operator edit d, and returns the file that the text is in. It waits
// for as long as the editor runs.
func (a *App) edit(ctx context.Context, d *deadletter.Document) (file string, err error) {
	editor := cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"))
	if editor == "" {
		return "", usage(errors.New("there is no $VISUAL and no $EDITOR: set one, or use --set or --body-file"))
	}
	f, err := os.CreateTemp("", "drover-*.json") // which only this user can read
	if err != nil {
		return "", fmt.Errorf("write the arguments to edit: %w", err)
	}
	_, err = f.Write(d.JSON())
	if err = firstError(err, f.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("write the arguments to edit: %w", err), os.Remove(f.Name()))
	}
	// A shell, because it may be several words: code --wait. Ctrl-C is the editor's.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "sh", "-c", editor+` "$1"`, "sh", f.Name())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.Stdin, a.Stdout, a.Stderr
	if err := cmd.Run(); err != nil {
		return "", errors.Join(fmt.Errorf("%s: %w: nothing was done", editor, err), os.Remove(f.Name()))
	}
	text, err := os.ReadFile(f.Name())
	if err == nil {
		err = d.Edit(text)
	}
	return f.Name(), err
}
