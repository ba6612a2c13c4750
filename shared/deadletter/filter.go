package deadletter

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/droverhq/drover/shared/task"
)

// Filter says which letters to list. The zero value means all; a letter must meet
// everything that is set.
type Filter struct {
	Class       task.Class
	Service     string
	Kind        string // "<service>.<action>", where * stands for any text, as path.Match has it
	Tenant      string
	ID          string
	Reason      task.Reason
	Since       time.Time // stored in DEAD then or later
	Until       time.Time // stored in DEAD before
	Contains    string    // in the text of any failure, without regard to case
	Fingerprint string    // as [Fingerprint] has it
	Limit       int       // letters at most; 0 means no limit
}

const wildcards = "*?[\\"

// subject is the filter that the broker applies.
func (f *Filter) subject() (string, error) {
	class, service, action, id := "*", "*", "*", "*"
	if f.Class != "" {
		class = string(f.Class)
	}
	if f.Service != "" {
		service = f.Service
	}
	if f.Kind != "" {
		s, a, err := f.kind()
		if err != nil {
			return "", err
		}
		if f.Service != "" && s != "*" && f.Service != s {
			return "", fmt.Errorf("%w: kind %s is not one of service %s", ErrFilter, f.Kind, f.Service)
		}
		if action = a; s != "*" {
			service = s
		}
	}
	if f.ID != "" {
		id = task.Token(f.ID)
	}
	for _, token := range []string{class, service} {
		if err := task.CheckToken(token); token != "*" && err != nil {
			return "", err
		}
	}
	if f.Limit < 0 {
		return "", fmt.Errorf("%w: limit %d", ErrFilter, f.Limit)
	}
	tokens := []string{"dead", class, service, action, id}
	if id != "*" {
		return strings.Join(tokens, "."), nil
	}
	// Without an id, what has fewer or more tokens than a letter should is listed too.
	for tokens[len(tokens)-1] == "*" {
		tokens = tokens[:len(tokens)-1]
	}
	return strings.Join(append(tokens, ">"), "."), nil
}

// kind is what the broker can apply of the kind: "*" stands for each word with a
// wildcard in it.
func (f *Filter) kind() (service, action string, err error) {
	if !strings.ContainsAny(f.Kind, wildcards) {
		return task.SplitKind(f.Kind)
	}
	if _, err := path.Match(f.Kind, ""); err != nil {
		return "", "", fmt.Errorf("%w: kind %s: %w", ErrFilter, f.Kind, err)
	}
	service, action, ok := strings.Cut(f.Kind, ".")
	if !ok { // the wildcard may stand for the dot
		return "*", "*", nil
	}
	for _, word := range []*string{&service, &action} {
		if strings.ContainsAny(*word, wildcards) {
			*word = "*"
		} else if err := task.CheckToken(*word); err != nil {
			return "", "", fmt.Errorf("kind %q: %w", f.Kind, err)
		}
	}
	if service == "*" { // it may hold the dot, so that what follows is no action
		action = "*"
	}
	return service, action, nil
}

func (f *Filter) matches(l *Letter) bool {
	return (f.ID == "" || l.ID == f.ID || strings.HasSuffix(l.Where, "."+f.ID)) &&
		(f.Reason == "" || l.Reason == f.Reason) &&
		(f.Tenant == "" || l.Subject.Tenant == f.Tenant) &&
		!l.StoredAt.Before(f.Since) &&
		(f.Until.IsZero() || l.StoredAt.Before(f.Until)) &&
		f.matchesKind(l) &&
		(f.Contains == "" || f.inFailures(l)) &&
		(f.Fingerprint == "" || Fingerprint(l) == f.Fingerprint)
}

func (f *Filter) matchesKind(l *Letter) bool {
	if !strings.ContainsAny(f.Kind, wildcards) {
		return true // the broker saw to it
	}
	ok, err := path.Match(f.Kind, l.Subject.Kind())
	return ok && err == nil
}

func (f *Filter) inFailures(l *Letter) bool {
	text := strings.ToLower(f.Contains)
	for _, e := range l.Errors {
		if strings.Contains(strings.ToLower(e.Error), text) {
			return true
		}
	}
	return false
}
