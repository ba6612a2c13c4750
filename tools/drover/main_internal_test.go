package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"drover": main})
}

// Every script has a broker of its own, which DROVER_NATS_URL names.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			tb, ok := env.T().(testing.TB)
			if !ok {
				return errors.New("testscript hands out no testing.TB any more")
			}
			url, js := natstest.Listen(tb)
			env.Setenv("DROVER_NATS_URL", url)
			env.Setenv("NO_COLOR", "1")
			env.Values["tb"], env.Values["js"] = tb, js
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "stored": stored, "worker": startWorker, "died": died, "timers": timers, "looks": looks, "collector": collector,
			"paused": paused, "held": held, "removed": removed, "taken": taken, "announced": announced,
			"bury": bury, "forget": forget, "listen": listen, "uses": uses, "limited": limited, "overdue": overdue,
			"guarded": guarded, "complaints": complaints,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
	})
}

// exits CODE COMMAND… runs a command that must end with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGUMENT…")
	}
	code := "0"
	err := ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = strconv.Itoa(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// stored STREAM SEQUENCE writes subject, id, headers and decoded body of a task.
func stored(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: stored STREAM SEQUENCE")
	}
	seq, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	ctx := context.Background()
	s, err := brokerOf(ts).Stream(ctx, args[0])
	ts.Check(err)
	m, err := s.GetMsg(ctx, seq)
	ts.Check(err)
	body := map[string]any{}
	ts.Check(task.Unmarshal(m.Data, &body))
	state, err := task.ReadState(m.Subject, m.Header, task.Stored{Stream: args[0], Sequence: seq, Time: m.Time})
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s\nid: %s\n", m.Subject, state.ID)
	for _, h := range []string{task.HeaderDeadline, "traceparent"} {
		if v := m.Header.Get(h); v != "" {
			fmt.Fprintf(ts.Stdout(), "%s: %s\n", h, v)
		}
	}
	fmt.Fprintf(ts.Stdout(), "%#v\n", body)
}

// order is a task whose text says what shall become of it.
type order struct {
	Do string `msgpack:"do"`
	To string `msgpack:"to"`
}

func (order) Kind() string { return "email.send" }

// worker FLEET starts a worker of email that does what each task says, until the
// script ends.
func startWorker(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: worker FLEETFILE")
	}
	fleet, err := streams.Load(ts.MkAbs(args[0]))
	ts.Check(err)
	var classes []worker.Class
	for _, c := range fleet.Classes {
		classes = append(classes, worker.Class{Name: c.Name, Slots: c.Slots, RetrySlots: c.RetrySlots, TimeLimit: c.TimeLimit, Retry: c.Retry(), MaxDeliver: c.MaxDeliver, Partitions: c.Partitions})
	}
	w, err := worker.New(brokerOf(ts), "email", worker.Serve(classes...), worker.Logger(slog.New(slog.DiscardHandler)))
	ts.Check(err)
	worker.Handle(w, func(ctx context.Context, o order) error {
		if strings.HasSuffix(o.To, "@exmaple.org") {
			return retry.Permanent(fmt.Errorf("550 no such mailbox <%s>", o.To))
		}
		info, _ := task.FromContext(ctx)
		switch o.Do {
		case "fail once":
			if info.Generation == 0 {
				return retry.Permanent(errors.New("the relay is closed"))
			}
		case "fail":
			return errors.New("connection refused by smtp.example.org")
		case "panic":
			panic("the relay is gone")
		case "refuse":
			return retry.Permanent(errors.New("550 no such mailbox\nsaid smtp.example.org"))
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { err = w.Run(ctx) })
	ts.Defer(func() {
		cancel()
		wg.Wait()
		ts.Check(err)
	})
}

// died N waits until the Nth dead letter is stored.
func died(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: died N")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := brokerOf(ts).OrderedConsumer(ctx, task.DeadStream, jetstream.OrderedConsumerConfig{})
	ts.Check(err)
	for i := range n {
		if _, err := c.Next(jetstream.FetchContext(ctx)); err != nil {
			ts.Fatalf("dead letter %d: %v", i+1, err)
		}
	}
}

// bury HEX stores a dead letter with this body, of task "odd".
func bury(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: bury HEX")
	}
	body, err := hex.DecodeString(args[0])
	ts.Check(err)
	st := task.State{Subject: task.Subject{Class: task.Default, Service: "email", Action: "send"}, ID: "odd", Reason: task.Undecodable, DiedAt: time.Now()}
	_, err = brokerOf(ts).PublishMsg(context.Background(), &nats.Msg{Subject: st.Subject.Dead(st.ID), Header: st.Header(nil), Data: body})
	ts.Check(err)
}

// listen SUBJECT makes a command heard, which waits until the first message on the
// subject is published.
func listen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listen SUBJECT")
	}
	sub, err := brokerOf(ts).Conn().SubscribeSync(args[0])
	ts.Check(err)
	ts.SetCmd("heard", func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 0 {
			ts.Fatalf("usage: heard")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := sub.NextMsgWithContext(ctx); err != nil {
			ts.Fatalf("nothing was heard on %s: %v", sub.Subject, err)
		}
	})
}

// forget STREAM deletes a stream.
func forget(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: forget STREAM")
	}
	ts.Check(brokerOf(ts).DeleteStream(context.Background(), args[0]))
}

// timers N waits until N retries are on timers and nothing else is under way.
func timers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: timers N")
	}
	n, err := strconv.ParseUint(args[0], 10, 64)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		retries, err := brokerOf(ts).Stream(ctx, task.RetryStream)
		ts.Check(err)
		live, err := brokerOf(ts).Stream(ctx, task.Default.Stream())
		ts.Check(err)
		if retries.CachedInfo().State.Msgs == n && live.CachedInfo().State.Msgs == 0 {
			return
		}
		<-tick.C
	}
}

// looks N waits until lanes were read N times more.
func looks(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: looks N")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	sub, err := brokerOf(ts).Conn().SubscribeSync("$JS.API.CONSUMER.INFO.TASKS_URGENT.webhook")
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for range n {
		if _, err := sub.NextMsgWithContext(ctx); err != nil {
			ts.Fatalf("wait for a look: %v", err)
		}
	}
	ts.Check(sub.Unsubscribe())
}

// collector starts a collector of traces, and names it to the commands that follow.
func collector(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: collector")
	}
	got := make(chan string, 16) // more than a script makes
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r.URL.Path + " " + string(b)
	}))
	ts.Defer(s.Close)
	ts.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", s.URL)
	ts.SetCmd("collected", func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 {
			ts.Fatalf("usage: collected TEXT")
		}
		select {
		case text := <-got:
			if !strings.HasPrefix(text, "/v1/traces ") || !strings.Contains(text, args[0]) {
				ts.Fatalf("collected %q, want a trace with %q", text, args[0])
			}
		default:
			ts.Fatalf("nothing was collected")
		}
	})
}

func brokerOf(ts *testscript.TestScript) jetstream.JetStream {
	js, ok := ts.Value("js").(jetstream.JetStream)
	if !ok {
		ts.Fatalf("the script has no broker")
	}
	return js
}

// The help of every verb is kept as people see it.
func TestHelp(t *testing.T) {
	t.Parallel()
	check := func(words []string) {
		var out, errs strings.Builder
		if code := execute(t.Context(), append(words, "--help"), strings.NewReader(""), &out, &errs); code != 0 || errs.Len() > 0 {
			t.Errorf("drover %v --help = %d, %s", words, code, errs.String())
		}
		file := filepath.Join("testdata", "help", strings.Join(append([]string{"drover"}, words...), "-")+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
				t.Error(err)
			}
			return
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(string(want), out.String()); diff != "" {
			t.Errorf("drover %v --help is not as in %s (rewrite it with -update):\n%s", words, file, diff)
		}
	}
	check(nil)
	for _, words := range verbs(t) {
		check(words)
	}
}

// verbs are all commands, at every level.
func verbs(t *testing.T) [][]string {
	t.Helper()
	var all [][]string
	var walk func(*kong.Node, []string)
	walk = func(n *kong.Node, above []string) {
		for _, c := range n.Children {
			words := append(slices.Clone(above), c.Name)
			all = append(all, words)
			walk(c, words)
		}
	}
	walk(parser(t).Model.Node, nil)
	return all
}

func parser(t *testing.T) *kong.Kong {
	t.Helper()
	exited := false
	p, err := newParser(new(cli), new(strings.Builder), new(strings.Builder), &exited)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
