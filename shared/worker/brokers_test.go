package worker_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
)

// brokers is one broker, or three of which one is lost.
type brokers struct {
	js            jetstream.JetStream
	url           string
	kill, restart func() // the only one, or of three the one that leads the bucket LIMITS
	alone         bool
}

// onBrokers runs a test with the topology of [topology] on one broker, and at full size
// on three as well.
func onBrokers(t *testing.T, ackWait time.Duration, f func(*testing.T, *brokers)) {
	t.Helper()
	t.Run("one broker", func(t *testing.T) {
		t.Parallel()
		b := natstest.StartBroker(t)
		js := b.Connect(t)
		topology(t, js, ackWait)
		f(t, &brokers{js: js, url: b.URL, kill: func() { b.Kill() }, restart: func() { b.Restart(t) }, alone: true})
	})
	if !*whole {
		return
	}
	t.Run("three brokers", func(t *testing.T) {
		t.Parallel()
		c := natstest.StartCluster(t)
		js := c.Connect(t)
		replicated(t, js, ackWait, natstest.Nodes)
		c.Wait(t)
		lost := 0
		f(t, &brokers{js: js, url: c.URL(), kill: func() {
			lost = c.Leader(t, js, "KV_LIMITS")
			c.Nodes[lost].Kill()
		}, restart: func() { c.Nodes[lost].Restart(t) }})
	})
}
