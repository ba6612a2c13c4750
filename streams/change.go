package streams

import "strings"

// Action is what a [Change] does.
type Action string

// Actions of a change.
const (
	Create Action = "create" // made by Apply
	Update Action = "update" // made by Apply, live and without touching a task
	Extra  Action = "extra"  // on the broker, ours by its name, not in the fleet: reported, never removed
	Refuse Action = "refuse" // cannot be made live: nothing is applied until it is dealt with
)

// Change is one difference between the broker and the fleet.
type Change struct {
	Object string   `json:"object"` // such as "stream TASKS_URGENT", "consumer RETRY/urgent-email", "bucket BODIES"
	Action Action   `json:"action"`
	Fields []Diff   `json:"fields,omitempty"` // From is empty in a Create
	Note   string   `json:"note,omitempty"`   // of Extra and Refuse: why; of Update: what it brings with it
	Do     []string `json:"do,omitempty"`     // of Refuse: commands to run first; of Extra: the one that removes it
}

// String is the change over a few lines, without a final newline.
func (c Change) String() string {
	var b strings.Builder
	b.WriteString(string(c.Action) + " " + c.Object)
	if c.Note != "" {
		b.WriteString(": " + c.Note)
	}
	for _, f := range c.Fields {
		b.WriteString("\n    " + f.String())
	}
	for _, d := range c.Do {
		b.WriteString("\n    $ " + d)
	}
	return b.String()
}

// String is "field: from → to", or "field: to" for something new.
func (d Diff) String() string {
	if d.From == "" {
		return d.Field + ": " + d.To
	}
	return d.Field + ": " + d.From + " → " + d.To
}

// RefusedError is what Plan and Apply return when they refuse. It wraps
// [ErrRefused].
type RefusedError struct {
	Changes []Change // those that are refused, at least one
}

// Error names each with its reason and what to do first, over several lines.
func (e *RefusedError) Error() string {
	var b strings.Builder
	b.WriteString("apply refused, nothing was changed:")
	for _, c := range e.Changes {
		b.WriteString("\n" + c.Object + ": " + c.Note)
		for _, d := range c.Do {
			b.WriteString("\n    $ " + d)
		}
	}
	return b.String()
}

// Unwrap returns [ErrRefused].
func (e *RefusedError) Unwrap() error { return ErrRefused }
