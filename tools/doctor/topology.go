package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/droverhq/drover/streams"
)

// lookTopology is whether the broker holds what the fleet file says.
func lookTopology(s *snapshot) ([]Finding, Check) {
	if s.planErr != nil { // which is a finding of lookUnseen
		return nil, skip("not compared with the fleet file: " + plain(s.planErr.Error()))
	}
	var out []Finding
	missing := s.absent()
	if missing != nil {
		out = append(out, *missing)
	}
	for _, c := range s.plan {
		switch c.Action {
		case streams.Create:
		case streams.Extra:
			out = append(out, find("topology-extra", c.Object, c.Object+" is not in the fleet file", 1).
				seen(c.Note).follows("Nothing, as long as nobody relies on it; its limits count against the account's.").
				remedy(append(slices.Clone(c.Do), "drover streams plan")...))
		default:
			out = append(out, s.differs(c))
		}
	}
	if f, ok := s.leases(); ok {
		out = append(out, f)
	}
	text := "the broker is as the fleet file wants it"
	if n := len(s.plan); n > 0 {
		text = fmt.Sprintf("%s from the fleet file: `drover streams plan`", some(uint64(n), "difference", "differences"))
	}
	return out, Check{Text: text}
}

// absent is one finding for all that does not exist.
func (s *snapshot) absent() *Finding {
	var gone, lanes []string
	for _, c := range s.plan {
		if c.Action == streams.Create {
			gone = append(gone, c.Object)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	for _, c := range s.topology.Consumers {
		if slices.Contains(gone, "consumer "+c.Stream+"/"+c.Config.Durable) {
			lanes = append(lanes, laneName(c))
		}
	}
	object, wrong := gone[0], gone[0]+" does not exist"
	switch {
	case s.gone() == len(s.streams):
		object, wrong = "topology", "the broker holds nothing of this fleet"
	case len(gone) > 1:
		object, wrong = "topology", fmt.Sprintf("%d objects of the fleet do not exist on the broker", len(gone))
	}
	follows := "Services that need it refuse to start, and publishes to a stream that is missing are refused."
	if len(lanes) > 0 && len(lanes) <= 4 {
		follows = "Nobody can take the tasks of " + strings.Join(lanes, " and ") + ": they stay in the stream; services that serve it refuse to start."
	}
	f := find("topology-missing", object, wrong, uint64(len(gone))).seen(head(gone, 6)+" (stream and consumer infos)").
		follows(follows).remedy("drover streams apply", "drover streams plan   # what that would do")
	return &f
}

// harm is what follows from a setting that is not as the fleet wants it; a setting
// that is not here only costs room or speed.
var harm = map[string]string{
	"filter":            "The consumer hands out other tasks than its service's: some are delivered to a service that does not know them, and others to nobody.",
	"subjects":          "Publishes of a service are refused, or land where no worker looks.",
	"delivery":          "Workers cannot pull from it.",
	"acknowledgement":   "Tasks are taken for settled that are not, or never for settled.",
	"ack wait":          "A lease that is too short ends while a task runs, which then runs twice; one that is too long keeps a dead worker's tasks away for as long.",
	"backoff":           "The lease is not the one that workers extend: tasks run twice.",
	"max deliver":       "The broker gives tasks up before the worker can dead-letter them: they stay in the stream and nobody gets them.",
	"headers only":      "Tasks are delivered without their bodies, and die as undecodable.",
	"retention":         "Settled tasks stay, or others vanish before they have run.",
	"schedules":         "Retries are not delayed, or not delivered at all.",
	"max age":           "Tasks that wait longer than that vanish without a trace.",
	"discard":           "A full stream drops what is oldest instead of refusing what is new.",
	"max messages":      "The stream refuses or drops tasks at a number that the fleet does not know.",
	"direct get":        "`drover lanes`, `drover tasks` and `drover dead` cannot read it.",
	"sources":           "Tasks come from, or go to, another stream, and may run twice.",
	"subject transform": "Tasks are stored under subjects that no worker has.",
	"duplicate window":  "A publish that is retried later than that makes a second task.",

	"expiry by message": "Whoever may publish a task can make it vanish unrun.",
	"deny delete":       "Dead letters cannot be redriven or discarded.",

	"inactive threshold":       "The broker removes the consumer when its workers are away for that long.",
	"max messages per subject": "A second task with the same subject is refused, or drops the first.",
	"limits on pulls":          "Workers ask for more than they may, and get nothing.",
}

// differs is the finding for one object that is set in another way.
func (s *snapshot) differs(c streams.Change) Finding {
	name, follows := "topology-drift", "Room or speed is not what the fleet file says."
	var seen []string
	for _, d := range c.Fields {
		seen = append(seen, fmt.Sprintf("%s: the broker has %s, the fleet file wants %s", d.Field, cmp.Or(d.From, "nothing"), d.To))
		if h, ok := harm[d.Field]; ok && name == "topology-drift" {
			follows = h
		}
	}
	if services := s.stops(c.Object); len(services) > 0 {
		name = "topology-broken"
		follows += " Processes of " + strings.Join(services, ", ") + " refuse to start."
	}
	f := find(name, c.Object, c.Object+" is not as the fleet file wants it", 1)
	if len(c.Fields) == 1 {
		f.Wrong = fmt.Sprintf("%s: its %s is not as the fleet file wants it", c.Object, c.Fields[0].Field)
	}
	f = f.seen(seen...).follows(follows)
	if c.Action == streams.Refuse {
		if len(seen) == 0 {
			f = f.seen(c.Note).follows("`drover streams apply` changes nothing as long as it is in the way.")
			f.Wrong = c.Object + " is in the way of the fleet file"
		}
		return f.remedy(append(slices.Clone(c.Do), "drover streams apply   # "+plain(c.Note))...)
	}
	return f.remedy("drover streams apply", "or put what the broker has into the fleet file, if that is meant")
}

// stops returns the services that would refuse to start because of object.
func (s *snapshot) stops(object string) (services []string) {
	for _, service := range s.fleet.Services {
		if err := s.unfit[service.Name]; err != nil && strings.Contains(err.Error(), object+":") {
			services = append(services, service.Name)
		}
	}
	return services
}

// leases are ack-waits that the fleet file has allowed to be too short.
func (s *snapshot) leases() (Finding, bool) {
	var short []string
	for _, c := range s.fleet.Classes {
		if c.AckWait < streams.MinAckWait {
			short = append(short, fmt.Sprintf("class %s: ack_wait %v", c.Name, c.AckWait))
		}
	}
	if len(short) == 0 {
		return Finding{}, false
	}
	return find("short-lease", "fleet file", "leases are shorter than the election of a new leader takes", uint64(len(short))).
		seen(strings.Join(short, ", ") + fmt.Sprintf(" (fleet file, which has allow_short_ack_wait); want %v", streams.MinAckWait)).
		follows("When a broker's leader changes, running tasks lose their leases and run twice.").
		remedy(fmt.Sprintf("ack_wait: %v   # in the fleet file, without allow_short_ack_wait; then: drover streams apply", streams.MinAckWait)), true
}

// head lists the first of names.
func head(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
