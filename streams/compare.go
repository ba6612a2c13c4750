package streams

import (
	"slices"
	"strings"
)

// Diff is one field that is not as the fleet wants it.
type Diff struct {
	Field string `json:"field"`
	From  string `json:"from,omitempty"` // on the broker; empty for something new
	To    string `json:"to"`             // in the fleet
}

// attr is one setting that the fleet decides. Settings without an attr, such as
// placement, compression and metadata, are the operator's: they are neither
// compared nor touched.
type attr[C any] struct {
	name string
	text func(C) string
	set  func(to *C, from C)

	// same reports whether nothing needs changing; nil means that texts are equal.
	same func(have, want C) bool
	// live reports whether the broker can make the change on a living object
	// without stranding tasks; nil means that it can.
	live func(have, want C) bool
	// serves reports whether a service can work with what there is; nil means as same.
	serves func(have, want C) bool
	// warn reports whether an operator should know of what a service can work with;
	// nil means no.
	warn func(have, want C) bool
}

func (a *attr[C]) equal(have, want C) bool {
	if a.same != nil {
		return a.same(have, want)
	}
	return a.text(have) == a.text(want)
}

func (a *attr[C]) usable(have, want C) bool {
	return a.equal(have, want) || a.serves != nil && a.serves(have, want)
}

// compare returns what differs, which of that the broker cannot change live, and
// have with the differences carried over.
func compare[C any](attrs []attr[C], have, want C) (fields []Diff, fixed []string, merged C) {
	merged = have
	for _, a := range attrs {
		if a.equal(have, want) {
			continue
		}
		fields = append(fields, Diff{a.name, a.text(have), a.text(want)})
		if a.live != nil && !a.live(have, want) {
			fixed = append(fixed, a.name)
		}
		a.set(&merged, want)
	}
	return fields, fixed, merged
}

// describe lists the settings of something new that are not the broker's defaults.
func describe[C any](attrs []attr[C], want C) []Diff {
	var none C
	var out []Diff
	for _, a := range attrs {
		if text := a.text(want); text != a.text(none) {
			out = append(out, Diff{Field: a.name, To: text})
		}
	}
	return out
}

func never[C any](_, _ C) bool  { return false }
func always[C any](_, _ C) bool { return true }

// uncovered returns those of subjects that no pattern of by matches whole.
func uncovered(subjects, by []string) []string {
	var out []string
	for _, s := range subjects {
		if !slices.ContainsFunc(by, func(p string) bool { return covers(p, s) }) {
			out = append(out, s)
		}
	}
	return out
}

// covers reports whether pattern matches every subject that s matches.
func covers(pattern, s string) bool {
	p, t := strings.Split(pattern, "."), strings.Split(s, ".")
	for i := range p {
		switch {
		case i >= len(t):
			return false
		case p[i] == ">":
			return true
		case t[i] == ">" || p[i] != "*" && p[i] != t[i]:
			return false
		}
	}
	return len(p) == len(t)
}
