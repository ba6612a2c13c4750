package deadletter

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Alert tells people of one kind of death. Its JSON is the data of a webhook.
type Alert struct {
	Fingerprint string    `json:"fingerprint"` // as `drover dead` groups letters; "other" for kinds that were too many to tell apart
	New         bool      `json:"new"`         // the first of its kind
	Kind        string    `json:"kind,omitempty"`
	Class       string    `json:"class,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Error       string    `json:"error,omitempty"` // the example's last one, on one line
	Count       uint64    `json:"count"`           // deaths so far; after a crash of this service it may be too high
	More        uint64    `json:"more"`            // of them, those since the last alert
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	Example     Example   `json:"example"`
	Command     string    `json:"command"` // to look with
}

// Example is one letter of a kind of death: the latest.
type Example struct {
	ID       string `json:"id"`
	Sequence uint64 `json:"sequence"` // in DEAD
	Trace    string `json:"trace,omitempty"`
}

const other = "other" // the fingerprint of what is too much

// alert is what to say of g now to a channel that was told of some before.
func (g *group) alert(before told) *Alert {
	a := &Alert{
		Fingerprint: g.Fingerprint, New: before.At.IsZero(),
		Kind: g.Kind, Class: g.Class, Reason: g.Reason, Error: g.Error,
		Count: g.Count, More: g.Count - min(before.Count, g.Count), First: g.First.UTC(), Last: g.Last.UTC(),
		Example: g.Example, Command: "drover dead ls",
	}
	for _, f := range []struct{ flag, value string }{{"--kind", g.Kind}, {"--class", g.Class}, {"--reason", g.Reason}} {
		if plain(f.value) { // it is for a shell
			a.Command += " " + f.flag + " " + f.value
		}
	}
	return a
}

func plain(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// id is the same whenever this alert is sent again.
func (a *Alert) id() string { return a.Fingerprint + "_" + strconv.FormatUint(a.Count, 10) }

func (a *Alert) title() string {
	what := a.Kind + " died as " + a.Reason
	if a.Fingerprint == other {
		what = "many kinds of tasks died"
	}
	if a.New {
		return fmt.Sprintf("a new kind of death: %s (%s)", what, times(a.Count))
	}
	return fmt.Sprintf("more deaths of a known kind: %s (%s more, %d in all)", what, times(a.More), a.Count)
}

func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return strconv.FormatUint(n, 10) + " times"
}

// text is the alert as a mail.
func (a *Alert) text() string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-12s %s\n", name, value)
		}
	}
	fmt.Fprintf(&b, "%s\n\n", a.title())
	line("kind", a.Kind)
	line("class", a.Class)
	line("reason", a.Reason)
	line("error", a.Error)
	line("first", a.First.Format(time.RFC3339))
	line("last", a.Last.Format(time.RFC3339))
	line("example", a.Example.ID)
	line("trace", a.Example.Trace)
	line("fingerprint", a.Fingerprint)
	fmt.Fprintf(&b, "\n    %s\n    drover dead show %d\n", a.Command, a.Example.Sequence)
	return b.String()
}

const maxExcerpt = 300 // bytes of an error in an alert

// oneLine is the begin of s without line breaks and control characters: the text
// comes from a task, and goes into logs and mails.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(s) > maxExcerpt {
		s = strings.ToValidUTF8(s[:maxExcerpt], "") + "…"
	}
	return s
}
