package natstest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Nodes is how many nodes a [Cluster] has: one may be gone.
const Nodes = 3

// Cluster is three nats-servers with JetStream in child processes, which tests
// kill, pause, restart and cut off. Every connection between two of them goes
// through a proxy in the test process; clients connect to a node directly, and
// learn of no other node from it. Each node keeps its port and store over all its
// lives.
//
// Kill, Pause, Resume and Restart are methods of the nodes. A stream has three
// replicas only when it is made with them. While a node that leads is gone,
// nothing is stored for 6 to 8 s, until the others have elected another.
//
// Cut, BlackHole, Mend and the questions are safe for concurrent use; the methods
// of a node are not, as those of [Process].
type Cluster struct {
	Nodes [Nodes]*Broker

	links [Nodes][Nodes]*proxy // from the one that dials to the one that listens
	ask   *http.Client

	mu    sync.Mutex
	state [Nodes]traffic
}

// ClusterOption changes a [Cluster].
type ClusterOption func(*clusterConfig)

type clusterConfig struct{ sync string }

// SyncAlways has every node store each message on its disk before it counts as
// stored. The default is the server's: it writes at once and syncs every two
// minutes, which loses nothing when a process is killed.
func SyncAlways() ClusterOption {
	return func(c *clusterConfig) { c.sync = "always" }
}

const clusterLimit = 60 * time.Second // for a cluster to be whole; normally 1 s, after an election 10 s

// StartCluster starts a cluster for tb and returns when it is whole, as [Cluster.Wait]
// says. All of it is gone when tb ends; its logs are printed when tb failed.
func StartCluster(tb testing.TB, opts ...ClusterOption) *Cluster {
	tb.Helper()
	var cfg clusterConfig
	for _, o := range opts {
		o(&cfg)
	}
	c := &Cluster{ask: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	hidden := nowhere(tb)
	var routes [Nodes]int // the port where each listens for the others
	for i := range c.Nodes {
		c.Nodes[i], routes[i] = newBroker(tb), FreePort(tb)
	}
	for i, n := range c.Nodes {
		var at []string
		for j := range c.Nodes {
			if i != j {
				c.links[i][j] = newProxy(tb, loopback(routes[j]))
				at = append(at, c.links[i][j].addr())
			}
		}
		n.env = append(n.env, envName+"="+nodeName(i), envSync+"="+cfg.sync, envHidden+"="+hidden,
			envRoute+"="+strconv.Itoa(routes[i]), envRoutes+"="+strings.Join(at, ","))
	}
	for _, n := range c.Nodes {
		n.Restart(tb)
	}
	c.Wait(tb)
	return c
}

// nowhere returns an address that refuses connections until tb ends: a port that
// is taken and not listened on. A node that is told to dial it tries once; one
// that accepted and closed would be dialed again, for ever.
func nowhere(tb testing.TB) string {
	tb.Helper()
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		tb.Fatalf("take a port: %v", err)
	}
	tb.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		tb.Fatalf("take a port: %v", err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		tb.Fatalf("take a port: %v", err)
	}
	return loopback(at.(*syscall.SockaddrInet4).Port)
}

func nodeName(i int) string { return "node" + strconv.Itoa(i) }

// node is the index of the node with that name, and -1 when there is none.
func (c *Cluster) node(name string) int {
	return slices.IndexFunc(c.Nodes[:], func(n *Broker) bool { return slices.Contains(n.env, envName+"="+name) })
}

// URL returns the URLs of all nodes, separated by commas, in the order of Nodes.
// nats.go tries them in random order, unless it is told not to.
func (c *Cluster) URL() string {
	var urls []string
	for _, n := range c.Nodes {
		urls = append(urls, n.URL)
	}
	return strings.Join(urls, ",")
}

// Connect returns a JetStream context on any node, as [Connect] does, that goes to
// another one when its node is gone. A node that is paused or cut off is not gone:
// only its client's own pings find that out, after minutes by default.
func (c *Cluster) Connect(tb testing.TB) jetstream.JetStream {
	tb.Helper()
	return Connect(tb, c.URL())
}

// Leader returns the index of the node that leads the stream, as js is told, and
// -1 when nobody leads it now or nobody answers.
func (c *Cluster) Leader(tb testing.TB, js jetstream.JetStream, stream string) int {
	tb.Helper()
	s, err := js.Stream(tb.Context(), stream)
	if err != nil || s.CachedInfo().Cluster == nil {
		return -1
	}
	return c.node(s.CachedInfo().Cluster.Leader)
}

// ConsumerLeader returns the index of the node that leads the consumer, as js is
// told, and -1 when nobody leads it now or nobody answers. It need not be the
// leader of the stream.
func (c *Cluster) ConsumerLeader(tb testing.TB, js jetstream.JetStream, stream, consumer string) int {
	tb.Helper()
	cons, err := js.Consumer(tb.Context(), stream, consumer)
	if err != nil || cons.CachedInfo().Cluster == nil {
		return -1
	}
	return c.node(cons.CachedInfo().Cluster.Leader)
}

// Lead makes node i the leader of every stream and consumer that has replicas, and
// returns when it is. With i from MetaLeader the other nodes lead nothing then, and
// nobody has to be elected when one of them goes. It needs a whole cluster.
func (c *Cluster) Lead(tb testing.TB, js jetstream.JetStream, i int) {
	tb.Helper()
	for _, stream := range names(tb, "the streams", func(ctx context.Context) (lister, error) { return js.StreamNames(ctx), nil }) {
		c.lead(tb, js, i, "STREAM.LEADER.STEPDOWN."+stream, func() int { return c.Leader(tb, js, stream) })
		for _, consumer := range names(tb, "the consumers of "+stream, func(ctx context.Context) (lister, error) {
			s, err := js.Stream(ctx, stream)
			if err != nil {
				return nil, err
			}
			return s.ConsumerNames(ctx), nil
		}) {
			c.lead(tb, js, i, "CONSUMER.LEADER.STEPDOWN."+stream+"."+consumer, func() int { return c.ConsumerLeader(tb, js, stream, consumer) })
		}
	}
}

// lister is what both jetstream.StreamNameLister and ConsumerNameLister are.
type lister interface {
	Name() <-chan string
	Err() error
}

// names asks until it is answered, which one question in an election never is.
func names(tb testing.TB, what string, ask func(context.Context) (lister, error)) []string {
	tb.Helper()
	once := func() (all []string, err error) {
		ctx, cancel := context.WithTimeout(tb.Context(), time.Second)
		defer cancel()
		l, err := ask(ctx)
		if err != nil {
			return nil, err
		}
		for name := range l.Name() {
			all = append(all, name)
		}
		return all, l.Err()
	}
	var all []string
	insist(tb, 100*time.Millisecond, "list "+what, func() (err error) {
		all, err = once()
		return err
	})
	return all
}

func (c *Cluster) lead(tb testing.TB, js jetstream.JetStream, i int, api string, leader func() int) {
	tb.Helper()
	insist(tb, 100*time.Millisecond, "make "+nodeName(i)+" lead", func() error {
		if leader() == i {
			return nil
		}
		// The answer does not matter: who leads then is asked for.
		_, _ = js.Conn().Request("$JS.API."+api, []byte(`{"placement":{"preferred":"`+nodeName(i)+`"}}`), time.Second)
		return fmt.Errorf("it was asked to with %s, and does not", api)
	})
}

// insist calls f every so often until it returns nil, and fails tb with what it
// returned last when that takes longer than a cluster may.
func insist(tb testing.TB, every time.Duration, doing string, f func() error) {
	tb.Helper()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for deadline := time.Now().Add(clusterLimit); ; <-tick.C {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not after %v: %v", doing, clusterLimit, err)
		}
	}
}

// MetaLeader returns the index of the node that leads the cluster as a whole,
// which places streams and consumers, and -1 when no node says that it does.
func (c *Cluster) MetaLeader() int {
	for i := range c.Nodes {
		if m, err := c.meta(i); err == nil && m.Leader == nodeName(i) {
			return i
		}
	}
	return -1
}

// Cut takes node i off the network: its connections to the other nodes are closed,
// and new ones are refused. Its clients stay.
func (c *Cluster) Cut(i int) { c.set(i, refused) }

// BlackHole takes node i off the network without a sign: no byte passes between
// it and the other nodes, and nothing closes. Its clients stay.
func (c *Cluster) BlackHole(i int) { c.set(i, held) }

// Mend undoes Cut and BlackHole. What a black hole held is delivered.
func (c *Cluster) Mend(i int) { c.set(i, passes) }

func (c *Cluster) set(i int, to traffic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state[i] = to
	for j := range c.Nodes {
		if i != j {
			worse := max(c.state[i], c.state[j])
			c.links[i][j].set(worse)
			c.links[j][i].set(worse)
		}
	}
}

// Wait returns when the cluster is whole: it has a leader that sees both others up
// to date, and every node is connected to both others and says that it and all its
// streams and consumers are up to date. It fails tb after a minute, with what is
// missing.
func (c *Cluster) Wait(tb testing.TB) {
	tb.Helper()
	insist(tb, 20*time.Millisecond, "wait for the cluster to be whole", c.whole)
}

// whole returns why the cluster is not, or nil.
func (c *Cluster) whole() error {
	leader := c.MetaLeader()
	if leader < 0 {
		return errors.New("it has no leader")
	}
	m, err := c.meta(leader)
	if err != nil {
		return err
	}
	if len(m.Replicas) != Nodes-1 {
		return fmt.Errorf("%s leads and knows of %d others", nodeName(leader), len(m.Replicas))
	}
	for _, r := range m.Replicas {
		if !r.Current || r.Offline {
			return fmt.Errorf("%s is not up to date", r.Name)
		}
	}
	for i := range c.Nodes {
		var health struct {
			Status string `json:"status"`
			Error  string `json:"error"`
		}
		if err := c.get(i, "/healthz", &health); err != nil {
			return err
		}
		if health.Status != "ok" {
			return fmt.Errorf("%s is not healthy: %s %s", nodeName(i), health.Status, health.Error)
		}
		routes, err := c.routes(i)
		if err != nil {
			return err
		}
		others := map[string]bool{}
		for _, r := range routes {
			others[r.Name] = true
		}
		if len(others) != Nodes-1 {
			return fmt.Errorf("%s has routes to %d others", nodeName(i), len(others))
		}
	}
	return nil
}

// route is one connection of a node to another, as it says.
type route struct {
	Name string `json:"remote_name"`
	IP   string `json:"ip"`
	Port int    `json:"port"`
}

func (c *Cluster) routes(i int) ([]route, error) {
	var z struct {
		Routes []route `json:"routes"`
	}
	err := c.get(i, "/routez", &z)
	return z.Routes, err
}

// meta is what a node says of the cluster.
type meta struct {
	Leader   string `json:"leader"`
	Replicas []struct {
		Name    string `json:"name"`
		Current bool   `json:"current"`
		Offline bool   `json:"offline"`
	} `json:"replicas"` // of the leader alone
}

func (c *Cluster) meta(i int) (meta, error) {
	var js struct {
		Meta meta `json:"meta_cluster"`
	}
	err := c.get(i, "/jsz", &js)
	return js.Meta, err
}

// get asks the monitoring port of node i, whose number is another in each life.
func (c *Cluster) get(i int, path string, v any) error {
	select {
	case <-c.Nodes[i].Done():
		return fmt.Errorf("%s has ended", nodeName(i))
	default:
	}
	base := ""
	for line := range strings.Lines(c.Nodes[i].Output()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "ready" {
			base = f[2]
			break
		}
	}
	if base == "" {
		return fmt.Errorf("%s has no monitoring port", nodeName(i))
	}
	resp, err := c.ask.Get(base + path) //nolint:noctx // the client has a limit
	if err != nil {
		return fmt.Errorf("ask %s: %w", nodeName(i), err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("ask %s for %s: %w", nodeName(i), path, err)
	}
	return nil
}
