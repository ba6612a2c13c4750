package doctor_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/doctor"
)

// Of three nodes one is down, and then two.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t)
	f := &fleet{tb: t, url: c.Nodes[0].URL, js: c.Nodes[0].Connect(t), Fleet: small()}
	f.Replicas = 3
	f.apply()
	var r doctor.Report
	f.until("the replicas have caught up and nothing is wrong", func() bool {
		r = f.examine()
		return r.Healthy
	})
	c.Nodes[2].Kill()
	f.until("the node is missed", func() bool {
		r = f.examine()
		return len(r.Findings) > 0 && r.Findings[0].Name == "replica-behind"
	})
	says(t, first(t, r, "replica-behind", r.Findings[0].Object), "start it again")
	c.Nodes[1].Kill()
	// What is left answers once more, from what it knows, and names no leader.
	f.until("no leader is left", func() bool {
		m, err := f.js.Conn().Request("$JS.API.STREAM.INFO."+task.DeadStream, nil, time.Second)
		var info jetstream.StreamInfo
		return err == nil && json.Unmarshal(m.Data, &info) == nil && info.Cluster != nil && info.Cluster.Leader == ""
	})
	f.until("no stream has a leader", func() bool {
		r = f.examine()
		return len(r.Findings) == 1
	})
	says(t, first(t, r, "stream-silent", r.Findings[0].Object), "has no quorum", "start the nodes that are down", "what they hold is kept")
}
