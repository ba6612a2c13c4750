package streams_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// keysOf are names in place of keys, so that the golden file is readable.
func keysOf(f *streams.Fleet) map[string][]string {
	keys := map[string][]string{}
	for _, u := range f.Users() {
		keys[u.Name] = []string{"KEY_OF_" + u.Name}
	}
	return keys
}

func TestAccountsGolden(t *testing.T) {
	t.Parallel()
	f := streams.Default()
	got, err := f.Accounts(keysOf(f))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "accounts.conf", got)
	if again, _ := f.Accounts(keysOf(f)); again != got {
		t.Errorf("Accounts gives another text the second time:\n%s", cmp.Diff(got, again))
	}
}

// A new service adds its own lines, and changes none of another's.
func TestAccountsOfOneMoreService(t *testing.T) {
	t.Parallel()
	users := func(f *streams.Fleet) map[string]streams.User {
		out := map[string]streams.User{}
		for _, u := range f.Users() {
			out[u.Name] = u
		}
		return out
	}
	f := streams.Default()
	before := users(f)
	f.Services = append(f.Services, streams.Service{Name: "image", Classes: []task.Class{task.Slow}})
	after := users(f)
	for name, u := range before {
		if name == task.DeadletterService {
			continue // it reads every class's stream
		}
		if d := cmp.Diff(u, after[name]); d != "" {
			t.Errorf("user %s changed with a new service (-before +after):\n%s", name, d)
		}
	}
	if _, ok := after["image"]; !ok || len(after) != len(before)+1 {
		t.Errorf("%d users after %d, want one more: image", len(after), len(before))
	}
}

func TestAccountsWithoutAKey(t *testing.T) {
	t.Parallel()
	f := streams.Default()
	keys := keysOf(f)
	delete(keys, "email")
	delete(keys, "sys")
	_, err := f.Accounts(keys)
	if err == nil || !strings.Contains(err.Error(), "no key of service email") || !strings.Contains(err.Error(), "no key of system sys") {
		t.Errorf("Accounts = %v, want an error that names email and sys", err)
	}
}

// A key that is rotated out has the same permissions as the new one.
func TestAccountsWithTwoKeys(t *testing.T) {
	t.Parallel()
	f := small()
	keys := keysOf(f)
	one, err := f.Accounts(keys)
	if err != nil {
		t.Fatal(err)
	}
	keys["email"] = append(keys["email"], "OLD_KEY")
	two, err := f.Accounts(keys)
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(one, "# service email")
	block, _, _ = strings.Cut(block, "\n      }\n")
	if old := strings.Replace(block, "KEY_OF_email", "OLD_KEY", 1); !strings.Contains(two, block) || !strings.Contains(two, old) {
		t.Errorf("not the same block for both keys:\n%s", two)
	}
}

func TestProducerMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		producer streams.Producer
		want     string
	}{
		{"no name", streams.Producer{}, "producer 1: name"},
		{"bad name", streams.Producer{Name: "a.b"}, "producer 1: name"},
		{"a service's name", streams.Producer{Name: "Email"}, "the name is taken (email)"},
		{"the operator's name", streams.Producer{Name: "drover"}, "Drover's own"},
		{"unknown service", streams.Producer{Name: "shop", Services: []string{"emial"}}, `no service "emial"`},
		{"unknown class", streams.Producer{Name: "shop", Classes: []task.Class{"urgnet"}}, `no class "urgnet"`},
		{"nothing to publish", streams.Producer{Name: "shop", Services: []string{"other"}, Classes: []task.Class{task.Urgent}}, "could publish nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := with(func(f *streams.Fleet) {
				bulk := f.Classes[0]
				bulk.Name = task.Bulk
				f.Classes = append(f.Classes, bulk)
				f.Services = append(f.Services, streams.Service{Name: "other", Classes: []task.Class{task.Bulk}})
				f.Producers = []streams.Producer{tt.producer}
			})
			if err := f.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate() = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// The subjects of acknowledgements have two forms, in one of which a service named
// by a number could name another's task.
func TestServiceNamedByANumber(t *testing.T) {
	t.Parallel()
	f := with(func(f *streams.Fleet) { f.Services[0].Name = "17" })
	if err := f.Validate(); err == nil || !strings.Contains(err.Error(), "is a number") {
		t.Errorf("Validate() = %v, want an error about the number", err)
	}
}
