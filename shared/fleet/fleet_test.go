package fleet_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// topology applies a fleet of two services and two classes, and returns its
// durables.
func topology(tb testing.TB, js jetstream.JetStream) []fleet.Durable {
	tb.Helper()
	f := &streams.Fleet{AllowShortAckWait: true}
	classes := []task.Class{task.Urgent, task.Slow}
	for _, c := range classes {
		f.Classes = append(f.Classes, streams.Class{
			Name: c, AckWait: 2 * time.Second, TimeLimit: time.Minute, Attempts: 5, MaxDeliver: 3, WaitObjective: time.Second, Slots: 4,
		})
	}
	f.Services = []streams.Service{{Name: "email", Classes: classes}, {Name: "pdf", Classes: classes[1:]}}
	if _, err := streams.Apply(tb.Context(), js, f); err != nil {
		tb.Fatal(err)
	}
	var out []fleet.Durable
	for _, c := range f.Topology().Consumers {
		out = append(out, fleet.Durable{Class: c.Class, Service: c.Service, Stream: c.Stream, Name: c.Config.Durable})
	}
	return out
}

// restricted connects as a user that may publish to these subjects alone, to a
// server that has the topology.
func restricted(t *testing.T, publish ...string) (user, admin jetstream.JetStream) {
	t.Helper()
	user, admin = natstest.Restricted(t, server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	})
	topology(t, admin)
	return user, admin
}

// messages is how many the bucket holds, markers included.
func messages(tb testing.TB, js jetstream.JetStream) uint64 {
	tb.Helper()
	s, err := js.Stream(tb.Context(), "KV_"+task.FleetBucket)
	if err != nil {
		tb.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}
