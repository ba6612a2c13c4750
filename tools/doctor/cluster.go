package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	lagging  = 1000             // messages that a replica may be behind
	inactive = 30 * time.Second // since a replica was heard of last
)

// lookCluster is the replicas of streams, as their leaders see them.
func lookCluster(s *snapshot) ([]Finding, Check) {
	type state struct {
		text    string
		streams []string
	}
	var replicated, streams int
	peers := map[string]*state{}
	var names []string
	for _, st := range s.streams {
		if st.info == nil {
			continue
		}
		streams++
		if st.info.Config.Replicas > 1 {
			replicated++
		}
		if st.info.Cluster == nil {
			continue
		}
		for _, p := range st.info.Cluster.Replicas {
			text := ""
			switch {
			case p.Offline:
				text = "is offline"
			case p.Active > inactive:
				text = "was not heard of for " + p.Active.Round(time.Second).String()
			case p.Lag > lagging:
				text = "is " + some(p.Lag, "message", "messages") + " behind"
			case !p.Current:
				text = "is not up to date"
			default:
				continue
			}
			if peers[p.Name] == nil {
				peers[p.Name] = &state{text: text}
				names = append(names, p.Name)
			}
			peers[p.Name].streams = append(peers[p.Name].streams, st.name)
		}
	}
	if streams == 0 {
		return nil, skip("no stream could be read")
	}
	text := fmt.Sprintf("%d of %d streams have replicas", replicated, streams)
	if replicated == 0 {
		text = "one copy of every stream: what is stored is as safe as the one disk; how often it is synced (sync_interval) cannot be seen from here"
	}
	var out []Finding
	slices.Sort(names)
	for _, n := range names {
		p := peers[n]
		out = append(out, find("replica-behind", "node "+n, "the replicas on "+n+" are not what they should be: "+n+" "+p.text, uint64(len(p.streams))).
			seen(strings.Join(p.streams, ", ")+": as their leaders see it (stream infos)").
			follows("The streams go on, with one failure less between them and standing still.").
			remedy("nats server report jetstream --nkey keys/sys.nk   # or who else is of the system account: is the node up, has its disk room?", "start it again; it catches up by itself"))
	}
	return out, Check{Text: text}
}
