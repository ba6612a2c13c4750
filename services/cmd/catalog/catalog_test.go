package catalog_test

import (
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/services/cmd/catalog"
	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/streams"
)

// The built-in fleet file and the catalog name the same services, but for those
// that take no tasks; and each has a binary and an admin address of its own.
func TestAll(t *testing.T) {
	t.Parallel()
	var want, got, all, mains []string
	for _, s := range streams.Default().Services {
		want = append(want, s.Name)
	}
	admins := map[string]string{}
	for _, s := range catalog.All() {
		if all = append(all, s.Name); !s.NoTasks {
			got = append(got, s.Name)
		}
		if other, taken := admins[s.Admin]; taken {
			t.Errorf("%s and %s have the same admin address, %s", s.Name, other, s.Admin)
		}
		admins[s.Admin] = s.Name
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("services of fleet.yaml and of the catalog (-fleet +catalog):\n%s", diff)
	}
	files, err := filepath.Glob("../*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		mains = append(mains, filepath.Base(filepath.Dir(f)))
	}
	if diff := cmp.Diff(all, mains); diff != "" {
		t.Errorf("services of the catalog and folders with a main (-catalog +mains):\n%s", diff)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	if s, ok := catalog.Find("email"); !ok || s.Name != "email" {
		t.Errorf("Find(email) = %v, %v", s.Name, ok)
	}
	if s, ok := catalog.Find("fax"); ok {
		t.Errorf("Find(fax) = %v, want none", s.Name)
	}
}

// Each service takes its flags, and says at once which ones it lacks.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, s := range catalog.All() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			var help strings.Builder
			if err := service.Run(t.Context(), s, []string{"--help"}, &help, io.Discard); err != nil {
				t.Errorf("--help: %v", err)
			}
			if want := fmt.Sprintf("Flags of %s:", s.Name); !strings.Contains(help.String(), want) {
				t.Errorf("--help has no %q:\n%s", want, &help)
			}
		})
	}
}

// A service's binary links no other service: each is deployed for itself.
func TestBinariesAreTheirOwn(t *testing.T) {
	t.Parallel()
	for _, s := range catalog.All() {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../"+s.Name).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for _, other := range catalog.All() {
			if other.Name != s.Name && strings.Contains(string(out), "/services/"+other.Name+"\n") {
				t.Errorf("cmd/%s links services/%s", s.Name, other.Name)
			}
		}
	}
}
