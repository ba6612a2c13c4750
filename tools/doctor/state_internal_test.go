package doctor

import (
	"regexp"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/streams/backlog"
)

var at = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// crafted is a snapshot of a fleet of one service and one class, for states that no
// broker can be brought into within a test.
func crafted() *snapshot {
	f := &streams.Fleet{
		Classes:  []streams.Class{{Name: task.Slow, AckWait: 30 * time.Second, TimeLimit: 15 * time.Minute, WaitObjective: 2 * time.Minute, Slots: 4}},
		Services: []streams.Service{{Name: "pdf", Classes: []task.Class{task.Slow}}},
	}
	s := &snapshot{url: "nats://broker:4222", fleet: f, topology: f.Topology(), asker: newAsker(), now: at}
	for _, c := range s.topology.Streams {
		s.streams = append(s.streams, streamState{name: c.Name, info: &jetstream.StreamInfo{Config: c}})
	}
	for _, c := range s.topology.Consumers {
		i := jetstream.ConsumerInfo{Config: c.Config, TimeStamp: at}
		s.lanes = append(s.lanes, &laneState{want: c, class: f.Classes[0], first: &i, second: &i})
	}
	return s
}

// look is what one look at a consumer saw.
type look struct {
	pending, held, again, pulls int
	delivered                   uint64
	paused                      bool
}

func (l look) info(c jetstream.ConsumerConfig, when time.Time) *jetstream.ConsumerInfo {
	last := at.Add(-time.Second)
	return &jetstream.ConsumerInfo{
		Config: c, TimeStamp: when, NumPending: uint64(l.pending), NumAckPending: l.held, NumRedelivered: l.again, NumWaiting: l.pulls,
		Delivered: jetstream.SequenceInfo{Consumer: l.delivered, Last: &last}, Paused: l.paused,
	}
}

// What two looks at a lane say.
func TestLane(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		first, second look
		retryPulls    int           // on the lane of the retries
		waits         time.Duration // the first that waits
		idle          time.Duration // since the last delivery; 0 means 1 s
		limit         int           // max ack pending
		processes     int           // that announce themselves
		want          string        // the first finding; "" for none
	}{
		{name: "calm", first: look{pulls: 1}, second: look{pulls: 1}},
		{name: "nobody and nothing"},
		{name: "nobody for one", first: look{pending: 1}, second: look{pending: 1}, want: "lane-nobody"},
		{name: "nobody", first: look{pending: 3}, second: look{pending: 5}, want: "lane-nobody"},
		{name: "just published", second: look{pending: 5}},
		{name: "another lane is served", first: look{pending: 3}, second: look{pending: 3}, retryPulls: 1, want: "lane-nobody"},
		{name: "quick work between the looks", first: look{pending: 3, delivered: 5}, second: look{pending: 2, delivered: 900}, waits: time.Second},
		{name: "workers died", first: look{pending: 3, held: 4}, second: look{pending: 3, held: 4}, waits: time.Hour, want: "lane-nobody"},
		{name: "workers died with all", first: look{held: 4}, second: look{held: 4}, idle: time.Hour, want: "lane-nobody"},
		{name: "long runs, and nothing waits", first: look{held: 4}, second: look{held: 4}, retryPulls: 1, idle: 10 * time.Minute},
		{name: "long runs of a process that announces itself", first: look{held: 4}, second: look{held: 4}, idle: 10 * time.Minute, processes: 1},
		{name: "busy", first: look{pending: 3, held: 4}, second: look{pending: 3, held: 4}, retryPulls: 1, waits: 3 * time.Minute, want: "lane-busy"},
		{name: "busy by its announcement", first: look{pending: 3, held: 4}, second: look{pending: 3, held: 4}, processes: 1, waits: 3 * time.Minute, want: "lane-busy"},
		{name: "busy within the objective", first: look{pending: 3, held: 4}, second: look{pending: 3, held: 4}, retryPulls: 1, waits: time.Minute},
		{name: "held for longer than any run may take", first: look{pending: 3, held: 4}, second: look{pending: 3, held: 4}, retryPulls: 1, idle: time.Hour, want: "lane-nobody"},
		{name: "behind", first: look{pending: 30, held: 4, pulls: 1}, second: look{pending: 20, held: 4, pulls: 1, delivered: 10}, waits: 3 * time.Minute, want: "lane-behind"},
		{name: "stalled", first: look{pending: 30, pulls: 1}, second: look{pending: 30, pulls: 1}, want: "lane-stalled"},
		{name: "as many as allowed", first: look{pending: 30, held: 9, pulls: 1}, second: look{pending: 30, held: 9, pulls: 1}, limit: 9, want: "lane-limit"},
		{name: "paused", first: look{pending: 30, paused: true}, second: look{pending: 30, paused: true}, want: "lane-paused"},
		{name: "handed out again", first: look{held: 4, again: 3, pulls: 1}, second: look{held: 4, again: 4, pulls: 1}, want: "lane-redelivered"},
		{name: "one handed out again", first: look{held: 4, again: 1, pulls: 1}, second: look{held: 4, again: 1, pulls: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := crafted()
			live, retries := s.lanes[0], s.lanes[1]
			if tt.limit > 0 {
				live.want.Config.MaxAckPending = tt.limit
			}
			live.first, live.second = tt.first.info(live.want.Config, at.Add(-time.Second)), tt.second.info(live.want.Config, at)
			if tt.idle > 0 {
				last := at.Add(-tt.idle)
				live.second.Delivered.Last = &last
			}
			if tt.waits > 0 {
				live.waiting.tasks = []backlog.Task{{Stored: stored.Message{Time: at.Add(-tt.waits)}}}
			}
			retries.second = look{pulls: tt.retryPulls}.info(retries.want.Config, at)
			for range tt.processes {
				s.presence.processes = append(s.presence.processes, fleet.Process{Service: "pdf"})
			}
			findings, line := lookLanes(s)
			got := ""
			if len(findings) > 0 {
				got = findings[0].Name
			}
			if got != tt.want {
				t.Errorf("lookLanes = %q, want %q\n%+v\n%+v", got, tt.want, findings, line)
			}
			complete(t, findings)
		})
	}
}

// miscounted is one of a thing with the verb or the noun of many.
var miscounted = regexp.MustCompile(`\b1 (task wait|wait|are|were|do|tasks|times|failures|messages|advisories)\b|\b1 of \d+ .*\b(are|were|live)\b`)

// complete checks that findings say all that they should, under names that there are,
// and in the right number.
func complete(t *testing.T, findings []Finding) {
	t.Helper()
	for _, f := range findings {
		for _, text := range append([]string{f.Wrong, f.Follows}, f.Evidence...) {
			if m := miscounted.FindString(text); m != "" {
				t.Errorf("%s says %q: %s", f.Name, m, text)
			}
		}
		if rank(f.Name) == len(rules) || f.Severity == "" || f.Object == "" || f.Wrong == "" || f.Follows == "" || len(f.Evidence) == 0 || len(f.Remedy) == 0 {
			t.Errorf("finding lacks something: %+v", f)
		}
	}
}

// What else cannot be had from a broker within a test.
func TestCrafted(t *testing.T) {
	t.Parallel()
	stream := func(s *snapshot, name string) *jetstream.StreamInfo { return s.stream(name) }
	timer := func(due time.Duration) backlog.Task {
		return backlog.Task{State: task.State{Subject: task.Subject{Class: task.Slow, Service: "pdf", Action: "make"}, ID: "a"}, Place: backlog.Timer, DueAt: at.Add(due)}
	}
	for _, tt := range []struct {
		name  string
		look  func(*snapshot) ([]Finding, Check)
		craft func(*snapshot)
		want  string
	}{
		{"clocks agree", lookClock, func(s *snapshot) { s.clock = clock{ahead: -900 * time.Millisecond, known: true} }, ""},
		{"clock behind", lookClock, func(s *snapshot) { s.clock = clock{ahead: -3 * time.Second, give: time.Second, known: true} }, "clock"},
		{"clock that a slow answer explains", lookClock, func(s *snapshot) { s.clock = clock{ahead: 3 * time.Second, give: 2500 * time.Millisecond, known: true} }, ""},
		{"timers not yet due", lookTimers, func(s *snapshot) {
			s.timers = sample{tasks: []backlog.Task{timer(time.Minute), timer(-2 * time.Second)}}
		}, ""},
		{"timers past their time", lookTimers, func(s *snapshot) {
			s.timers = sample{tasks: []backlog.Task{timer(time.Minute), timer(-time.Minute)}, total: 2}
		}, "timers-stuck"},
		{"a replica that is offline", lookCluster, func(s *snapshot) {
			i := stream(s, task.DeadStream)
			i.Config.Replicas = 3
			i.Cluster = &jetstream.ClusterInfo{Leader: "n1", Replicas: []*jetstream.PeerInfo{{Name: "n2", Current: true}, {Name: "n3", Offline: true, Current: true}}}
		}, "replica-behind"},
		{"replicas that keep up", lookCluster, func(s *snapshot) {
			stream(s, task.DeadStream).Cluster = &jetstream.ClusterInfo{Leader: "n1", Replicas: []*jetstream.PeerInfo{{Name: "n2", Current: true, Lag: 3}}}
		}, ""},
		{"a stream without a leader", lookStreams, func(s *snapshot) {
			s.cluster = "c"
			s.streams[0].info, s.streams[0].err = nil, errSilent
		}, "stream-silent"},
		{"an account that fills up", lookStorage, func(s *snapshot) { s.account = account(80, 10, 100) }, "account-filling"},
		{"an account whose streams take all", lookStorage, func(s *snapshot) { s.account = account(5, 100, 100) }, "retry-room"},
		{"an account with room", lookStorage, func(s *snapshot) { s.account = account(5, 90, 100) }, ""},
		{"an account without limit", lookStorage, func(s *snapshot) { s.account = account(5, 90, -1) }, ""},
		{"a stream that fills up", lookStreams, func(s *snapshot) {
			stream(s, task.DeadStream).State = jetstream.StreamState{Msgs: 1000, Bytes: 800 << 20}
		}, "stream-filling"},
		{"short leases", lookTopology, func(s *snapshot) { s.fleet.Classes[0].AckWait = 2 * time.Second }, "short-lease"},
		{"a process that is not ready", lookProcesses, func(s *snapshot) {
			s.presence = presence{known: true, processes: []fleet.Process{{Service: "pdf", Started: at.Add(-time.Hour), NotReady: "RETRY refuses"}}}
		}, "process-not-ready"},
		{"a process that starts", lookProcesses, func(s *snapshot) {
			s.presence = presence{known: true, processes: []fleet.Process{{Service: "pdf", Started: at.Add(-time.Second), NotReady: "starting"}}}
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := crafted()
			tt.craft(s)
			findings, line := tt.look(s)
			got := ""
			if len(findings) > 0 {
				got = findings[0].Name
			}
			if got != tt.want || line.Text == "" {
				t.Errorf("found %q, want %q\n%+v\n%+v", got, tt.want, findings, line)
			}
			complete(t, findings)
		})
	}
}

func account(used, reserved uint64, limit int64) *jetstream.AccountInfo {
	return &jetstream.AccountInfo{Tier: jetstream.Tier{Store: used << 20, ReservedStore: reserved << 20, Limits: jetstream.AccountLimits{MaxStore: limit << 20}}}
}

// Every finding that exists has a rule of its own, and the worst come first.
func TestSort(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	worst := 0
	for _, r := range rules {
		if seen[r.name] {
			t.Errorf("rule %s is there twice", r.name)
		}
		seen[r.name] = true
		for i, s := range severities {
			if s == r.severity {
				if i < worst {
					t.Errorf("rule %s is %s and comes after less grave ones", r.name, s)
				}
				worst = max(worst, i)
			}
		}
	}
	r := Report{Findings: []Finding{
		find("dead-letters", "a", "", 9), find("lane-busy", "b", "", 1), find("destination", "few", "", 5),
		find("destination", "many", "", 50), find("stream-full", "c", "", 1), find("lane-nobody", "d", "", 7),
	}}
	r.sort()
	want := []string{"c", "d", "many", "few", "b", "a"}
	for i, f := range r.Findings {
		if f.Object != want[i] {
			t.Errorf("finding %d is %s of %s, want %s", i, f.Name, f.Object, want[i])
		}
	}
}

// A process that has not renewed its entry for long is none; a pause is written once.
func TestOldEntries(t *testing.T) {
	t.Parallel()
	var p presence
	old := time.Now().Add(-time.Hour)
	p.add("process.pdf.A", old, []byte(`{"service":"pdf","instance":"A"}`))
	p.add("process.pdf.B", time.Now(), []byte(`{"service":"pdf","instance":"B"}`))
	p.add("pause.slow.pdf", old, []byte(`{"class":"slow","service":"pdf","reason":"the night run"}`))
	if all := p.of("pdf"); len(all) != 1 || all[0].Instance != "B" {
		t.Errorf("processes = %+v, want B alone", all)
	}
	if r, ok := p.pause(task.Slow, "pdf"); !ok || r.Reason != "the night run" {
		t.Errorf("pause = %+v, %v, want that of an hour ago", r, ok)
	}
}
