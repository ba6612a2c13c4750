package natstest_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m, nil) }

// orders makes a stream with three replicas.
func orders(tb testing.TB, js jetstream.JetStream) {
	tb.Helper()
	if _, err := js.CreateStream(tb.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Replicas: natstest.Nodes}); err != nil {
		tb.Fatal(err)
	}
	if _, err := js.CreateConsumer(tb.Context(), "ORDERS", jetstream.ConsumerConfig{Durable: "all", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		tb.Fatal(err)
	}
}

// publish reports whether a message was stored within the limit.
func publish(tb testing.TB, js jetstream.JetStream, limit time.Duration) bool {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	_, err := js.Publish(ctx, "orders.new", []byte("a"))
	return err == nil
}

// bystander is a node that leads neither the cluster nor the stream, so that
// nobody has to be elected when it is gone.
func bystander(tb testing.TB, c *natstest.Cluster, js jetstream.JetStream) int {
	tb.Helper()
	stream, meta, consumer := c.Leader(tb, js, "ORDERS"), c.MetaLeader(), c.ConsumerLeader(tb, js, "ORDERS", "all")
	if stream < 0 || meta < 0 || consumer < 0 {
		tb.Fatalf("leaders of stream, cluster and consumer = %d, %d, %d, want all three", stream, meta, consumer)
	}
	for i := range c.Nodes {
		if i != stream && i != meta {
			return i
		}
	}
	tb.Fatal("every node leads something")
	return -1
}

const soon = 5 * time.Second // on a loaded machine; normally ms

func TestClusterServesWithoutOneNode(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, natstest.SyncAlways())
	js := c.Connect(t)
	orders(t, js)
	if known, learned := js.Conn().Servers(), js.Conn().DiscoveredServers(); len(known) != natstest.Nodes || len(learned) != 0 {
		t.Errorf("a client knows %v, of which it learned %v, want what it was given", known, learned)
	}
	i := bystander(t, c, js)
	js = c.Nodes[(i+1)%natstest.Nodes].Connect(t)
	url := c.Nodes[i].URL

	for _, tt := range []struct {
		name      string
		gone, met func()
	}{
		{"killed", func() { c.Nodes[i].Kill() }, func() { c.Nodes[i].Restart(t) }},
		{"paused", func() { c.Nodes[i].Pause() }, func() { c.Nodes[i].Resume() }},
		{"cut off", func() { c.Cut(i) }, func() { c.Mend(i) }},
		{"in a black hole", func() { c.BlackHole(i) }, func() { c.Mend(i) }},
	} {
		tt.gone()
		if !publish(t, js, soon) {
			t.Errorf("with a node %s nothing is stored", tt.name)
		}
		tt.met()
		c.Wait(t)
		if c.Nodes[i].URL != url {
			t.Errorf("the node is at %s after it was %s, want %s", c.Nodes[i].URL, tt.name, url)
		}
	}
}
