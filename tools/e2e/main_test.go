//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	limit      = 80 * time.Second // of all tests; whatever still runs then is killed
	buildLimit = 5 * time.Minute  // on a machine that has built nothing yet
	patience   = 20 * time.Second // for one thing to happen
)

var (
	own   string          // folder with the fleet's own binaries
	alive context.Context // the life of everything that tests start
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (_ int, err error) {
	if own, err = os.MkdirTemp("", "drover-e2e"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(own)) }()
	if err := build(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, fmt.Errorf("all tests together took more than %v", limit))
	defer cancel()
	alive = ctx //nolint:fatcontext // set once, before any test
	return m.Run(), nil
}

// build builds the programs that a fleet is made of, and puts the nats command
// beside them, so that the folder can be a PATH.
func build() error {
	ctx, cancel := context.WithTimeout(context.Background(), buildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", own+string(filepath.Separator),
		"github.com/droverhq/drover/tools/drover",
		"github.com/droverhq/drover/services/cmd/email",
		"github.com/droverhq/drover/services/cmd/webhook")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the fleet: %w", err)
	}
	if path, err := tool("nats"); err == nil {
		return os.Symlink(path, filepath.Join(own, "nats"))
	}
	return nil // the tests that need it say so
}

// tool is the path of a program that .ci/prepare builds.
func tool(name string) (string, error) {
	path := os.Getenv("DROVER_" + strings.ToUpper(name))
	if path == "" {
		path = filepath.Join("..", "..", ".bin", name)
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", fmt.Errorf("%w: build it with `.ci/prepare %s`", err, name)
	}
	return path, nil
}

// require is tool for a test that cannot do without it.
func require(tb testing.TB, name string) string {
	tb.Helper()
	path, err := tool(name)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}
