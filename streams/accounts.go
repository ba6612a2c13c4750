package streams

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Accounts of the broker's configuration.
const (
	Account       = "DROVER" // everything of the fleet
	SystemAccount = "SYS"    // the servers' own
)

// Accounts writes the part of nats-server's configuration that says who may do
// what: both accounts, and each user with its public nkey and its permissions. keys
// has the public nkeys of every user of the fleet by name, of which it may use any;
// the error names those that have none. The same fleet and keys give the same text,
// one subject a line.
func (f *Fleet) Accounts(keys map[string][]string) (string, error) {
	f, err := f.ready()
	if err != nil {
		return "", fmt.Errorf("write accounts: %w", err)
	}
	var errs []error
	var fleet, system strings.Builder
	for _, u := range f.Users() {
		if len(keys[u.Name]) == 0 {
			errs = append(errs, fmt.Errorf("write accounts: there is no key of %s %s", u.Role, u.Name))
		}
		for _, key := range keys[u.Name] {
			if u.Role == SystemRole {
				fmt.Fprintf(&system, "      { nkey: %s }\n", key)
				continue
			}
			fmt.Fprintf(&fleet, "\n      # %s %s\n      {\n        nkey: %s\n        permissions: {\n", u.Role, u.Name, key)
			allow(&fleet, "publish", u.Publish)
			allow(&fleet, "subscribe", u.Subscribe)
			fleet.WriteString("        }\n      }\n")
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return fmt.Sprintf(accountsText, Account, fleet.String(), SystemAccount, system.String(), SystemAccount), nil
}

const accountsText = `# Who may do what on the broker. Written by "drover keys" from the fleet file and
# the folder of keys: change those and write it again. The keys here are public.

accounts: {
  %s: {
    jetstream: enabled
    users: [%s    ]
  }
  %s: {
    users: [
%s    ]
  }
}
system_account: %s
`

func allow(b *strings.Builder, verb string, subjects []string) {
	fmt.Fprintf(b, "          %s: { allow: [\n", verb)
	for _, s := range subjects {
		// Quoted, because a "$" outside of quotes is a variable.
		b.WriteString("            " + strconv.Quote(s) + "\n")
	}
	b.WriteString("          ] }\n")
}
