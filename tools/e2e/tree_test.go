//go:build e2e

package e2e_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// trace is one trace as Jaeger's query API has it.
type trace struct {
	TraceID   string
	Spans     []span
	Processes map[string]struct{ ServiceName string }
}

type span struct {
	TraceID, SpanID string
	OperationName   string
	ProcessID       string
	StartTime       int64 // µs since 1970
	References      []reference
	Tags            []struct {
		Key   string
		Value any
	}
}

type reference struct{ RefType, TraceID, SpanID string }

const (
	childOf     = "CHILD_OF"
	followsFrom = "FOLLOWS_FROM"
)

// tag is the value of a tag as text, "" when there is none.
func (s *span) tag(key string) string {
	for _, t := range s.Tags {
		if t.Key == key {
			return fmt.Sprint(t.Value)
		}
	}
	return ""
}

// name is how a link to s is written.
func (s *span) name() string {
	if n := s.tag("task.attempt"); n != "" {
		return "attempt " + n
	}
	return s.OperationName
}

// parent is the span that s is a child of, "" for a root.
func (s *span) parent() string {
	for _, r := range s.References {
		if r.RefType == childOf {
			return r.SpanID
		}
	}
	return ""
}

func sortTraces(traces []trace) {
	for i := range traces {
		slices.SortFunc(traces[i].Spans, func(a, b span) int { return cmp.Compare(a.StartTime, b.StartTime) })
	}
	slices.SortFunc(traces, func(a, b trace) int { return cmp.Compare(a.Spans[0].StartTime, b.Spans[0].StartTime) })
}

// shown are the tags of a span that tell its part in the life of a task.
var shown = []string{"task.attempt", "task.generation", "task.verdict", "task.reason", "error.type"}

// tree draws a trace: a line for each span, indented below its parent, with its
// service, its tags and its links. Links may go to the spans of before, too.
func (t *trace) tree(before ...trace) string {
	names := map[string]string{}
	for _, other := range append(before, *t) {
		for _, s := range other.Spans {
			where := ""
			if other.TraceID != t.TraceID {
				where = " of another trace"
			}
			names[other.TraceID+s.SpanID] = s.name() + where
		}
	}
	var b strings.Builder
	b.WriteByte('\n')
	var draw func(parent, indent string)
	draw = func(parent, indent string) {
		for _, s := range t.Spans {
			if s.parent() != parent {
				continue
			}
			fmt.Fprintf(&b, "%s%s: %s", indent, t.Processes[s.ProcessID].ServiceName, s.OperationName)
			for _, key := range shown {
				if v := s.tag(key); v != "" {
					fmt.Fprintf(&b, ", %s %s", key[strings.IndexByte(key, '.')+1:], v)
				}
			}
			for _, r := range s.References {
				if r.RefType == followsFrom {
					fmt.Fprintf(&b, ", follows %s", cmp.Or(names[r.TraceID+r.SpanID], "a span that is not there"))
				}
			}
			b.WriteByte('\n')
			draw(s.SpanID, indent+"  ")
		}
	}
	draw("", "")
	return b.String()
}
