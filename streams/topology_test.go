package streams_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

func TestTopologyGolden(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	enc := json.NewEncoder(&got)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(streams.Default().Topology()); err != nil {
		t.Fatal(err)
	}
	golden(t, "topology.json", got.String())
}

// A class's stream has as many consumers as services, and room for all of them.
func TestConsumersHaveRoom(t *testing.T) {
	t.Parallel()
	f := streams.Default()
	for _, c := range f.Topology().Consumers {
		class, _ := f.Class(c.Class)
		s, _ := f.Service(c.Service)
		slots := class.Slots
		if c.Retry {
			slots = class.RetrySlots
		}
		if least := 2 * s.Processes * (slots + 1024); c.Config.MaxAckPending < least {
			t.Errorf("%s/%s: max ack pending = %d, want at least %d", c.Stream, c.Config.Durable, c.Config.MaxAckPending, least)
		}
		if least := 2 * s.Processes; c.Config.MaxWaiting < least {
			t.Errorf("%s/%s: max waiting = %d, want at least %d", c.Stream, c.Config.Durable, c.Config.MaxWaiting, least)
		}
		if c.Config.MaxDeliver <= class.MaxDeliver {
			t.Errorf("%s/%s: the broker gives up at %d, the worker at %d", c.Stream, c.Config.Durable, c.Config.MaxDeliver, class.MaxDeliver)
		}
	}
}

// Raising processes within reason must not need a change of max waiting, which a
// living consumer cannot make.
func TestMaxWaitingStays(t *testing.T) {
	t.Parallel()
	waiting := func(processes int) int {
		f := with(func(f *streams.Fleet) { f.Services[0].Processes = processes })
		return f.Topology().Consumers[0].Config.MaxWaiting
	}
	if one, many := waiting(1), waiting(256); one != many {
		t.Errorf("max waiting is %d for 1 process and %d for 256, want the same", one, many)
	}
	if got := waiting(1000); got < 2*1000 {
		t.Errorf("max waiting is %d for 1000 processes, want at least 2000", got)
	}
}

// A stream without subjects would listen on its own name.
func TestUnservedClassHasNoStream(t *testing.T) {
	t.Parallel()
	var names []string
	for _, s := range streams.Default().Topology().Streams {
		names = append(names, s.Name)
		if len(s.Subjects) == 0 {
			t.Errorf("stream %s has no subjects", s.Name)
		}
	}
	want := "TASKS_URGENT TASKS_DEFAULT TASKS_BULK RETRY DEAD ADVISORIES AUDIT"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("streams = %s, want %s", got, want)
	}
}

func TestSubjectsAreThoseOfTask(t *testing.T) {
	t.Parallel()
	s := task.Subject{Class: task.Urgent, Service: "email", Action: "send"}
	subjects := map[string]string{s.String(): "TASKS_URGENT", s.RetryWait("1"): "RETRY", s.RetryReady("1"): "RETRY", s.Dead("1"): "DEAD"}
	for subject, want := range subjects {
		var got []string
		for _, c := range streams.Default().Topology().Streams {
			for _, pattern := range c.Subjects {
				if prefix, ok := strings.CutSuffix(pattern, ">"); ok && strings.HasPrefix(subject, prefix) {
					got = append(got, c.Name)
				}
			}
		}
		if d := cmp.Diff([]string{want}, got); d != "" {
			t.Errorf("streams that take %s (-want +got):\n%s", subject, d)
		}
	}
}
