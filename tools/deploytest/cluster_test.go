package deploytest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/keyring"
)

const (
	clusterConf   = "../../deploy/nats/cluster.conf"
	routePassword = "0123456789abcdef"
)

// node is one broker of the cluster's environment.
type node struct{ clients, monitor, routes string }

// freeAddr is a loopback address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(natstest.FreePort(t)))
}

// environ is what cluster.conf takes from the environment.
func environ(name string, n node, routes, store string) []string {
	return []string{
		"DROVER_NODE=" + name, "DROVER_LISTEN=" + n.clients, "DROVER_MONITOR=" + n.monitor,
		"DROVER_CLUSTER_LISTEN=" + n.routes, "DROVER_ROUTES=" + routes,
		"DROVER_ROUTE_PASSWORD=" + routePassword, "DROVER_STORE=" + store,
	}
}

// What cluster.conf says, as nats-server reads it.
func TestClusterConfig(t *testing.T) { // not parallel: it sets the environment
	dir := confDir(t, streams.Default())
	for _, v := range environ("drover-1", node{"0.0.0.0:4222", "127.0.0.1:8222", "10.0.0.1:6222"},
		"[nats-route://drover:s@10.0.0.1:6222, nats-route://drover:s@10.0.0.2:6222]", "/var/lib/nats") {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	o, err := server.ProcessConfigFile(filepath.Join(dir, "cluster.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what      string
		got, want any
	}{
		{"name", o.ServerName, "drover-1"},
		{"clients' address", fmt.Sprint(o.Host, ":", o.Port), "0.0.0.0:4222"},
		{"monitoring address", fmt.Sprint(o.HTTPHost, ":", o.HTTPPort), "127.0.0.1:8222"},
		{"route address", fmt.Sprint(o.Cluster.Host, ":", o.Cluster.Port), "10.0.0.1:6222"},
		{"routes", len(o.Routes), 2},
		{"cluster", o.Cluster.Name, "drover"},
		{"routes' password", o.Cluster.Password, routePassword},
		{"most bytes of a message", o.MaxPayload, int32(1 << 20)},
		{"store", o.StoreDir, "/var/lib/nats"},
		{"sync always", o.SyncAlways, true},
		{"room on disk", o.JetStreamMaxStore, int64(10 << 30)},
		{"room in memory", o.JetStreamMaxMemory, int64(0)},
		{"unknown JSON is let through", o.NoJetStreamStrict, false},
		{"ping", o.PingInterval, 15 * time.Second},
		{"pings without an answer", o.MaxPingsOut, 1},
		{"lame duck", o.LameDuckDuration, 30 * time.Second},
		{"system account", o.SystemAccount, streams.SystemAccount},
		{"a user without a key", o.NoAuthUser, ""},
		{"users", len(o.Nkeys), len(streams.Default().Users())},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %v, want %v", tt.what, tt.got, tt.want)
		}
	}
}

// confDir is a folder with cluster.conf, keys and accounts.conf in it.
func confDir(t *testing.T, f *streams.Fleet) string {
	t.Helper()
	dir := t.TempDir()
	if _, _, err := keyring.Write(dir, f); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(clusterConf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster.conf"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Three brokers with cluster.conf, each a process: the operator applies the
// topology with three replicas, the producer publishes and the worker of email
// runs a task, all with their keys, and again after a broker is killed.
func TestClusterRuns(t *testing.T) {
	t.Parallel()
	f := streams.Default()
	f.Replicas = 3
	for i := range f.Classes { // the tests of a machine share its disk
		f.Classes[i].MaxBytes = 16 << 20
	}
	f.Dead.MaxBytes, f.Bodies.MaxBytes = 16<<20, 16<<20
	dir := confDir(t, f)
	var nodes [3]node
	var routes, urls []string
	for i := range nodes {
		nodes[i] = node{freeAddr(t), freeAddr(t), freeAddr(t)}
		routes = append(routes, "nats-route://drover:"+routePassword+"@"+nodes[i].routes)
		urls = append(urls, "nats://"+nodes[i].clients)
	}
	var brokers [3]*natstest.Process
	for i, n := range nodes {
		env := environ(fmt.Sprint("drover-", i+1), n, "["+strings.Join(routes, ", ")+"]", t.TempDir())
		brokers[i] = natstest.Spawn(t, brokerRole, append(env, "DEPLOYTEST_CONF="+filepath.Join(dir, "cluster.conf"))...)
	}
	url := strings.Join(urls, ",")
	operator := connectAs(t, url, dir, streams.OperatorUser)
	applied(t, operator, f)
	s, err := operator.js.Stream(t.Context(), "TASKS_DEFAULT")
	if err != nil {
		t.Fatal(err)
	}
	cluster := s.CachedInfo().Cluster
	if cluster == nil || len(cluster.Replicas) != 2 {
		t.Fatalf("TASKS_DEFAULT has %+v, want a leader and two replicas", cluster)
	}

	email, producer := connectAs(t, url, dir, "email"), connectAs(t, url, dir, "producer")
	if err := streams.Check(t.Context(), email.js, f, "email"); err != nil {
		t.Fatal(err)
	}
	e := &events{more: make(chan struct{}, 1)}
	_, stop := startWorker(t, email, f, e)
	publish(t, producer, job{Do: "first"})
	e.wait(t, "first", 1)
	producer.clean(t) // during an election it also asks which streams there are, and may not

	leader := cluster.Leader
	var alive []*natstest.Process
	for i, b := range brokers {
		if fmt.Sprint("drover-", i+1) == leader {
			b.Kill()
		} else {
			alive = append(alive, b)
		}
	}
	publish(t, producer, job{Do: "second"})
	e.wait(t, "second", 1)
	stop()
	for _, u := range []*user{operator, email} {
		u.clean(t)
	}

	alive[0].Kill()
	leaderless(t, producer)
}

// leaderless publishes until the last node has noticed that it is alone. Then the
// producer, which may not ask which streams there are, is told both that it can be.
func leaderless(t *testing.T, producer *user) {
	t.Helper()
	c, err := client.New(producer.js)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = c.Publish(ctx, job{Do: "third"})
		cancel()
		if errors.Is(err, client.ErrNoStream) {
			break
		}
	}
	if !errors.Is(err, client.ErrNoStream) || !strings.Contains(err.Error(), "no leader now") || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish without a leader = %v, want ErrNoStream that says so", err)
	}
}

// applied makes the topology, on brokers that have only begun to find each other.
func applied(t *testing.T, operator *user, f *streams.Fleet) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if _, err = streams.Apply(t.Context(), operator.js, f); err == nil {
			return
		}
	}
	t.Fatalf("apply: %v", err)
}

const brokerRole = "deploytest-broker"

// brokerMain is a nats-server with the configuration that DEPLOYTEST_CONF names. It
// reads that again on SIGHUP, and says so.
func brokerMain() int {
	o, err := server.ProcessConfigFile(os.Getenv("DEPLOYTEST_CONF"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o.NoSigs = true
	s, err := server.NewServer(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s.ConfigureLogger()
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		fmt.Fprintln(os.Stderr, "nats-server is not ready")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	fmt.Println("ready", s.ClientURL())
	for ctx.Err() == nil {
		select {
		case <-reload:
			fmt.Println("reloaded", s.Reload())
		case <-ctx.Done():
		}
	}
	s.Shutdown()
	s.WaitForShutdown()
	return 0
}
