package natstest

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
)

// routes returns the addresses where the routes of a node end.
func routes(tb testing.TB, c *Cluster, i int) []string {
	tb.Helper()
	rs, err := c.routes(i)
	if err != nil {
		tb.Fatal(err)
	}
	var at []string
	for _, r := range rs {
		at = append(at, net.JoinHostPort(r.IP, strconv.Itoa(r.Port)))
	}
	slices.Sort(at) // the node lists them in any order
	return at
}

// between returns how many bytes have passed between node i and the others.
func between(c *Cluster, i int) (n int) {
	for j := range c.Nodes {
		if i != j {
			n += c.links[i][j].total() + c.links[j][i].total()
		}
	}
	return n
}

func until(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// A node that is cut off has no way to the others, nor they to it: nodes tell each
// other where the third one is, and what they tell must lead nowhere.
func TestCutCuts(t *testing.T) {
	t.Parallel()
	c := StartCluster(t)
	js := c.Connect(t)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Replicas: Nodes}); err != nil {
		t.Fatal(err)
	}
	for i := range c.Nodes {
		at := routes(t, c, i) // before the ends: a connection is there before its route
		var proxies []string
		for j := range c.Nodes {
			if i != j {
				proxies = append(proxies, slices.Concat(c.links[i][j].ends(), c.links[j][i].ends())...)
			}
		}
		for _, end := range at {
			if !slices.Contains(proxies, end) {
				t.Errorf("a route of node %d goes to %s, want its proxies: %v", i, end, proxies)
			}
		}
	}

	away := 0
	for away == c.Leader(t, js, "S") || away == c.MetaLeader() {
		away++
	}
	alone := c.Nodes[away].Connect(t)
	tryFor := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		_, err := alone.Publish(ctx, "S", nil)
		return err
	}
	stores := func() bool { return tryFor(time.Second) == nil }
	until(t, 10*time.Second, "a message is stored through the node", stores)

	c.Cut(away)
	until(t, 5*time.Second, "the node has no routes", func() bool {
		return len(routes(t, c, away)) == 0
	})
	before := between(c, away)
	if err := tryFor(2 * time.Second); err == nil { // routes are dialed again every second
		t.Error("a message was stored through a node that is cut off")
	}
	if at := routes(t, c, away); at != nil {
		t.Errorf("a node that is cut off has routes to %v", at)
	}
	if n := between(c, away) - before; n != 0 {
		t.Errorf("%d bytes passed to and from a node that is cut off", n)
	}
	c.Mend(away)
	c.Wait(t)

	until(t, 10*time.Second, "a message is stored through the node that was cut off", stores)

	had := routes(t, c, away)
	c.BlackHole(away)
	c.Mend((away + 1) % Nodes) // mends nothing
	before = between(c, away)
	if err := tryFor(2 * time.Second); err == nil {
		t.Error("a message was stored through a black hole")
	} else if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish through a black hole = %v, want no answer", err)
	}
	// A pump that had read when the hole opened may hand that on.
	if n := between(c, away) - before; n > 4*64<<10 {
		t.Errorf("%d bytes passed a black hole", n)
	}
	if at := routes(t, c, away); !cmp.Equal(had, at) {
		t.Errorf("a node in a black hole has routes to %v, want them as before, %v: nothing closes", at, had)
	}
	c.Mend(away)
	c.Wait(t)
	until(t, 10*time.Second, "a message is stored through the node that was in a black hole", stores)
}
