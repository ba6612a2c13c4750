// Package deploytest_test holds deploy/ to the binaries: it starts the broker's
// configuration, builds what the Containerfile builds, and runs what the compose
// file runs, without containers.
package deploytest_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/droverhq/drover/shared/natstest"
)

// scratch is a folder of this test process, for what tests share.
var scratch string

func TestMain(m *testing.M) {
	if os.Getenv("DEPLOYTEST_CONF") != "" { // a broker of a test's cluster
		natstest.Main(m, map[string]func() int{brokerRole: brokerMain})
	}
	var err error
	if scratch, err = os.MkdirTemp("", "deploytest"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(scratch); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// cutVolume splits FROM:TO[:ro].
func cutVolume(t *testing.T, v string) (from, to string) {
	t.Helper()
	from, to, ok := strings.Cut(strings.TrimSuffix(v, ":ro"), ":")
	if !ok {
		t.Fatalf("volume %q, want FROM:TO", v)
	}
	return from, to
}
