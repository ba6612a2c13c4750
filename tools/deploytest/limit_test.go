package deploytest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/keyring"
)

// The command of docs/operations.md that limits the account's storage finds its
// place in what `drover keys` writes, and nats-server takes what it makes of it.
func TestAccountLimit(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(root + "/docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^ {4}(sed .* keys/accounts\.conf)`).FindStringSubmatch(string(page))
	if command == nil {
		t.Fatal("docs/operations.md has no command that changes keys/accounts.conf")
	}
	dir := t.TempDir()
	if _, _, err := keyring.Write(filepath.Join(dir, "keys"), streams.Default()); err != nil {
		t.Fatal(err)
	}
	sh := exec.CommandContext(t.Context(), "sh", "-c", command[1])
	sh.Dir = dir
	if text, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command[1], err, text)
	}
	conf := filepath.Join(dir, "keys", keyring.ConfFile)
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "max_file: "); n != 1 {
		t.Errorf("%s sets %d limits, want 1", command[1], n)
	}
	if _, err := server.ProcessConfigFile(conf); err != nil {
		t.Errorf("after %s: %v", command[1], err)
	}
}
