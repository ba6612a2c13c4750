package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/stored"
	"github.com/droverhq/drover/shared/task"
)

// presence is what the bucket FLEET says, if there is one. It only adds to what
// the broker knows: a fleet without it is examined all the same.
type presence struct {
	known     bool // there is a bucket, and it could be read
	processes []fleet.Process
	pauses    []fleet.Record
	err       error
}

const (
	fleetStream = "KV_" + task.FleetBucket
	fleetLimit  = 1000 // entries that are read
	settling    = 30 * time.Second
)

func (s *snapshot) readPresence(ctx context.Context, js jetstream.JetStream) {
	var info jetstream.StreamInfo
	if err := s.asker.api(ctx, "STREAM.INFO."+fleetStream, &info); err != nil {
		if !missing(err) {
			s.presence.err = err
		}
		return
	}
	ctx, done := s.asker.limit(ctx, askLimit, "$JS.API.DIRECT.GET."+fleetStream)
	defer done()
	for m, err := range stored.Read(ctx, js, stored.Query{Stream: fleetStream, Limit: fleetLimit}) {
		if errors.Is(err, stored.ErrNoStream) {
			return
		}
		if s.presence.err = why(ctx, err); err != nil {
			return
		}
		if len(m.Data) > 0 { // not the marker of what was deleted
			s.presence.add(strings.TrimPrefix(m.Subject, "$KV."+task.FleetBucket+"."), m.Time, m.Data)
		}
	}
	s.presence.known = true
}

// add takes an entry of the bucket. What another version wrote says less, and harms
// nothing.
func (p *presence) add(key string, written time.Time, data []byte) {
	switch {
	case strings.HasPrefix(key, "process.") && !fleet.Ghost(written):
		var x fleet.Process
		if json.Unmarshal(data, &x) == nil {
			p.processes = append(p.processes, x)
		}
	case strings.HasPrefix(key, "pause."):
		var x fleet.Record
		if json.Unmarshal(data, &x) == nil {
			p.pauses = append(p.pauses, x)
		}
	}
}

// of are the processes of one service.
func (p *presence) of(service string) []fleet.Process {
	var out []fleet.Process
	for _, x := range p.processes {
		if x.Service == service {
			out = append(out, x)
		}
	}
	return out
}

// busy says what the processes of a service run, and for how long.
func (p *presence) busy(service string) string {
	running, longest := map[string]int{}, map[string]float64{}
	for _, x := range p.of(service) {
		for _, b := range x.Busy {
			running[b.Kind] += b.Running
			longest[b.Kind] = max(longest[b.Kind], b.Longest)
		}
	}
	var kinds []string
	for k := range running {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b string) int { return cmp.Or(cmp.Compare(longest[b], longest[a]), cmp.Compare(a, b)) })
	for i, k := range kinds {
		kinds[i] = fmt.Sprintf("%d %s, the longest for %v", running[k], plain(k), time.Duration(longest[k]*float64(time.Second)).Round(time.Second))
	}
	if kinds == nil {
		return ""
	}
	return "running in its processes: " + head(kinds, 5) + " (bucket FLEET)"
}

// pause returns why a share of a class is paused.
func (p *presence) pause(class task.Class, service string) (fleet.Record, bool) {
	for _, x := range p.pauses {
		if x.Class == class && x.Service == service {
			return x, true
		}
	}
	return fleet.Record{}, false
}

// processName is how findings call x.
func processName(x fleet.Process) string {
	return plain(fmt.Sprintf("%s (%s, pid %d, version %s)", x.Instance, x.Host, x.PID, cmp.Or(x.Version, "unknown")))
}

// undertaker is the service that every fleet has, and no fleet file names.
const undertaker = "deadletter"

// announced are the services of the fleet, and others of which there are processes.
func (s *snapshot) announced() []string {
	var out []string
	for _, service := range s.fleet.Services {
		out = append(out, service.Name)
	}
	for _, x := range s.presence.processes {
		if !slices.Contains(out, x.Service) {
			out = append(out, x.Service)
		}
	}
	return out
}

// lookProcesses is what the processes of the fleet say of themselves.
func lookProcesses(s *snapshot) ([]Finding, Check) {
	if s.presence.err != nil {
		return nil, skip("the bucket FLEET, in which processes announce themselves, could not be read")
	}
	if !s.presence.known {
		return nil, skip("there is no bucket FLEET in which processes announce themselves")
	}
	var out []Finding
	var counts []string
	for _, service := range s.announced() {
		all := s.presence.of(service)
		counts = append(counts, fmt.Sprintf("%s %d", plain(service), len(all)))
		var not, leaks []string
		for _, x := range all {
			if x.NotReady != "" && !x.Draining && s.now.Sub(x.Started) > settling {
				not = append(not, processName(x)+": "+plain(x.NotReady))
			}
			for _, l := range x.Lanes {
				if l.Leaked > 0 {
					leaks = append(leaks, fmt.Sprintf("%s: %d of %d slots of class %s", processName(x), l.Leaked, l.Slots, l.Class))
				}
			}
		}
		if n := len(not); n > 0 {
			out = append(out, find("process-not-ready", plain(service), fmt.Sprintf("%d of %d processes of %s %s not ready", n, len(all), plain(service), verb(n, "lives and is", "live and are")), uint64(n)).
				seen(not[:min(n, 5)]...).follows("They take fewer tasks than they could, or none.").
				remedy("do what the reason above says; if there is nothing to be done, restart the process"))
		}
		if n := len(leaks); n > 0 {
			out = append(out, find("slots-leaked", plain(service), fmt.Sprintf("handlers of %s ignore their cancelled context", plain(service)), uint64(n)).
				seen(leaks[:min(n, 5)]...).follows("Their slots are lost until the process is restarted, which it asks for when it has lost too many.").
				remedy("find the handler that hangs: `running in its processes` of a lane that is busy, or its traces", "give every call in it the handler's context"))
		}
	}
	settled := func(x fleet.Process) bool { return s.now.Sub(x.Started) > settling }
	if slices.ContainsFunc(s.presence.processes, settled) && len(s.presence.of(undertaker)) == 0 {
		out = append(out, find("deadletter-away", undertaker, "no process of the deadletter service is there", 0).
			seen("none announces itself (bucket FLEET)").
			follows("Nobody buries what the broker gives up, finds timers that it forgot, or tells people of new kinds of death.").
			remedy(s.start(undertaker, "", "")))
	}
	return out, Check{Text: "processes that announce themselves: " + head(counts, 8) + versions(s.presence.processes)}
}

// versions says when processes of one service are of different versions.
func versions(all []fleet.Process) string {
	of := map[string][]string{}
	for _, x := range all {
		if !slices.Contains(of[x.Service], x.Version) {
			of[x.Service] = append(of[x.Service], x.Version)
		}
	}
	var mixed []string
	for service, v := range of {
		if len(v) > 1 {
			slices.Sort(v)
			mixed = append(mixed, plain(service+" "+strings.Join(v, " and ")))
		}
	}
	if mixed == nil {
		return ""
	}
	slices.Sort(mixed)
	return "; of different versions: " + head(mixed, 4)
}
