package doctor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/streams/backlog"
)

// snapshot is all that was seen of a fleet. Nothing changes it once it is gathered.
type snapshot struct {
	host       Host
	open       map[string]bool // services of which a breaker is not closed; nil when it is not known
	contained  []string        // services that `drover run` can start
	fleet      *streams.Fleet
	topology   streams.Topology
	connectErr error    // why there is no connection; then only targets is set
	targets    []target // what was tried

	asker   *asker
	url     string
	version string
	cluster string // name of the broker's cluster; "" for one that stands alone
	rtt     time.Duration
	now     time.Time // by the broker's clock
	clock   clock

	account    *jetstream.AccountInfo
	accountErr error
	streams    []streamState // as in topology, and those behind its buckets
	lanes      []*laneState  // as in topology
	plan       []streams.Change
	planErr    error
	unfit      map[string]error // by service: why it would refuse to start

	presence          presence
	dead, timers, due sample
	bodies            []missingBody
	bodiesLooked      int
	bodiesErr         error
}

// streamState is what the leader of a stream says.
type streamState struct {
	name string
	info *jetstream.StreamInfo
	err  error
}

// sample is a part of what a stream holds.
type sample struct {
	tasks []backlog.Task
	total uint64 // that there are
	err   error
}

func (s sample) String() string {
	if uint64(len(s.tasks)) >= s.total {
		return fmt.Sprintf("all %d", s.total)
	}
	return fmt.Sprintf("%d of %d", len(s.tasks), s.total)
}

// gather looks at everything, most of it at once.
func gather(ctx context.Context, o Options) *snapshot {
	s := &snapshot{host: o.Host, contained: o.Contained, fleet: o.Fleet, topology: o.Fleet.Topology(), asker: newAsker(), unfit: map[string]error{}}
	js, err := dial(ctx, o, s.asker)
	if err != nil {
		s.connectErr, s.targets = err, probe(ctx, o.URL)
		return s
	}
	nc := js.Conn()
	defer nc.Close()
	s.asker.nc = nc
	s.asker.complain(nc, nil, nc.LastError()) // what was refused while it connected is not said again
	s.url, s.version, s.cluster = parse(nc.ConnectedUrlRedacted()).url, nc.ConnectedServerVersion(), nc.ConnectedClusterName()
	s.rtt, _ = nc.RTT() // 0 when it cannot be told
	s.now = time.Now()
	var wg sync.WaitGroup
	for _, f := range []func(){
		func() { s.readAccount(ctx) },
		func() { s.readStreams(ctx, js) },
		func() { s.readLanes(ctx, js, o.Interval) },
		func() { s.readPlan(ctx, js) },
		func() { s.readPresence(ctx, js) },
	} {
		wg.Go(f)
	}
	wg.Wait()
	s.readBreakers(ctx, js)
	s.readBodies(ctx, js)
	return s
}

func (s *snapshot) named() string {
	if s.cluster == "" {
		return ""
	}
	return " of cluster " + s.cluster
}

func (s *snapshot) readAccount(ctx context.Context) {
	var info jetstream.AccountInfo
	if s.accountErr = s.asker.api(ctx, "INFO", &info); s.accountErr == nil {
		s.account = &info
	}
}

// planLimit is for comparing the whole topology, and so for many answers.
const planLimit = 4 * time.Second

func (s *snapshot) readPlan(ctx context.Context, js jetstream.JetStream) {
	needs := []string{"$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO." + bodiesStream}
	for _, c := range s.topology.Streams {
		needs = append(needs, "$JS.API.STREAM.INFO."+c.Name, "$JS.API.CONSUMER.LIST."+c.Name)
	}
	for _, b := range s.topology.Buckets {
		needs = append(needs, "$JS.API.STREAM.INFO.KV_"+b.Bucket)
	}
	ctx, done := s.asker.limit(ctx, planLimit, needs...)
	defer done()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, service := range s.fleet.Services {
		wg.Go(func() {
			err := streams.Check(ctx, js, s.fleet, service.Name)
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, streams.ErrDrift) {
				s.unfit[service.Name] = err
			}
		})
	}
	s.plan, s.planErr = streams.Plan(ctx, js, s.fleet)
	if errors.Is(s.planErr, streams.ErrRefused) {
		s.planErr = nil // its text is in the changes
	}
	s.planErr = why(ctx, s.planErr)
	wg.Wait()
}

const (
	sampleNewest = 1000 // of DEAD and of the timers of RETRY
	sampleOldest = 256  // of the timers and the due retries: those that are stuck are among them
)

// readStreams asks for every stream, and samples what is in DEAD and RETRY.
func (s *snapshot) readStreams(ctx context.Context, js jetstream.JetStream) {
	for _, c := range s.topology.Streams {
		s.streams = append(s.streams, streamState{name: c.Name})
	}
	s.streams = append(s.streams, streamState{name: bodiesStream})
	for _, b := range s.topology.Buckets {
		s.streams = append(s.streams, streamState{name: "KV_" + b.Bucket})
	}
	var clocks clocks
	var wg sync.WaitGroup
	for i := range s.streams {
		st := &s.streams[i]
		wg.Go(func() {
			sent := time.Now()
			var info jetstream.StreamInfo
			if st.err = s.asker.api(ctx, "STREAM.INFO."+st.name, &info); st.err != nil {
				return
			}
			clocks.add(sent, info.TimeStamp, time.Now())
			if c := info.Cluster; c != nil && c.Leader == "" {
				st.err = errLeaderless // a node without a quorum still answers, from what it knew
				return
			}
			st.info = &info
		})
	}
	wg.Wait()
	s.clock = clocks.best()
	s.now = s.now.Add(s.clock.ahead)
	wg.Go(func() { s.dead = s.newest(ctx, js, task.DeadStream, "dead.>") })
	wg.Go(func() {
		s.timers = s.newest(ctx, js, task.RetryStream, "retry.wait.>")
		old := s.oldest(ctx, js, task.RetryStream, "retry.wait.>")
		s.timers.total = old.total
		s.timers.join(old)
	})
	wg.Go(func() { s.due = s.oldest(ctx, js, task.RetryStream, "retry.ready.>") })
	wg.Wait()
}

func (s *snapshot) stream(name string) *jetstream.StreamInfo {
	for _, st := range s.streams {
		if st.name == name {
			return st.info
		}
	}
	return nil
}

// newest samples the end of a stream.
func (s *snapshot) newest(ctx context.Context, js jetstream.JetStream, stream, subject string) sample {
	info := s.stream(stream)
	if info == nil {
		return sample{}
	}
	from := uint64(1)
	if last := info.State.LastSeq; last > sampleNewest && info.State.Msgs > sampleNewest {
		from = last - sampleNewest + 1
	}
	out := s.read(ctx, js, stored.Query{Stream: stream, Subject: subject, From: from, Limit: sampleNewest})
	out.total = max(info.State.Msgs, uint64(len(out.tasks)))
	return out
}

// oldest samples the beginning of a stream.
func (s *snapshot) oldest(ctx context.Context, js jetstream.JetStream, stream, subject string) sample {
	if s.stream(stream) == nil {
		return sample{}
	}
	return s.read(ctx, js, stored.Query{Stream: stream, Subject: subject, Limit: sampleOldest})
}

func (s *snapshot) read(ctx context.Context, js jetstream.JetStream, q stored.Query) sample {
	ctx, done := s.asker.limit(ctx, askLimit, "$JS.API.DIRECT.GET."+q.Stream)
	defer done()
	var out sample
	for m, err := range stored.Read(ctx, js, q) {
		if err != nil {
			out.err = why(ctx, err)
			break
		}
		out.tasks = append(out.tasks, backlog.TaskOf(m))
		out.total = uint64(len(out.tasks)) + m.Rest
	}
	return out
}

// join adds those of other that are not there yet.
func (s *sample) join(other sample) {
	have := map[uint64]bool{}
	for _, t := range s.tasks {
		have[t.Stored.Sequence] = true
	}
	for _, t := range other.tasks {
		if !have[t.Stored.Sequence] {
			s.tasks = append(s.tasks, t)
		}
	}
	s.err = errors.Join(s.err, other.err)
}
