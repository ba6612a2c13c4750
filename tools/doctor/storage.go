package doctor

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	filling = 0.70 // of a limit: time to act before anything is refused
	full    = 0.97 // of a limit: nothing but the smallest still fits
)

// lookStorage is the account's storage, which bounds RETRY, and all streams.
func lookStorage(s *snapshot) ([]Finding, Check) {
	if s.account == nil {
		return nil, skip("the account's figures were not told")
	}
	used, reserved, limit := storage(s.account)
	if limit <= 0 {
		return nil, Check{Text: size(used) + " used; the account has no limit, so the disk is the limit, which cannot be seen from here: " +
			"`nats server report jetstream` shows it to a user of the system account"}
	}
	text := fmt.Sprintf("%s of %s used (%s), %s reserved by streams", size(used), size(limit), percent(used, limit), size(reserved))
	seen := text + " (account info)"
	const remedy = "raise the account's limit: `nats account info` shows it; in the configuration of nats-server it is max_file of the account's jetstream block, or max_file_store"
	const fewer = "drover dead ls   # then redrive or discard: dead letters and retries are what grows"
	if share(used, limit) >= full || slack(limit, used) < s.largest() {
		return []Finding{find("account-full", "account", "the account's storage is full", 0).seen(seen).
			follows("Publishing is refused in every class; a worker whose task has failed cannot store its retry and keeps its slot until it can.").
			remedy(remedy, fewer+". Until there is room every act is refused, because the audit trail cannot take it")}, Check{Text: text}
	}
	var out []Finding
	if share(used, limit) >= filling {
		out = append(out, find("account-filling", "account", "the account's storage fills up", 0).seen(seen).
			follows("When it is full every publish is refused, retries included.").remedy(remedy, fewer))
	}
	if reserved >= limit {
		out = append(out, find("retry-room", "account", "the streams have reserved all of the account's storage, and RETRY has no limit of its own", 0).seen(seen).
			follows("When the other streams are full there is no room for retries, and workers keep their slots instead.").
			remedy("lower max_bytes of classes in the fleet file, then: drover streams apply", remedy))
	}
	return out, Check{Text: text}
}

// storage is what an account uses, has reserved and may use; limit is 0 for none.
func storage(a *jetstream.AccountInfo) (used, reserved, limit uint64) {
	tiers := []jetstream.Tier{a.Tier}
	if len(a.Tiers) > 0 {
		tiers = nil
		for _, t := range a.Tiers {
			tiers = append(tiers, t)
		}
	}
	for _, t := range tiers {
		if t.Limits.MaxStore > 0 && (limit == 0 || share(t.Store, uint64(t.Limits.MaxStore)) >= share(used, limit)) {
			used, reserved, limit = t.Store, t.ReservedStore, uint64(t.Limits.MaxStore)
		} else if limit == 0 {
			used, reserved = used+t.Store, reserved+t.ReservedStore
		}
	}
	if reserved > math.MaxInt64 { // the broker counts streams without a limit as reserving less than nothing
		reserved = 0
	}
	return used, reserved, limit
}

// largest is the size in bytes of an ordinary task: what a stream with less room
// refuses to most.
func (s *snapshot) largest() uint64 {
	var n uint64
	for _, st := range s.streams {
		if st.info != nil {
			n = max(n, average(st.info))
		}
	}
	return n
}

func average(i *jetstream.StreamInfo) uint64 {
	if i.State.Msgs == 0 {
		return 0
	}
	return i.State.Bytes / i.State.Msgs
}

// lookStreams is whether each stream answers and has room.
func lookStreams(s *snapshot) ([]Finding, Check) {
	var out []Finding
	answered, fullest, which := 0, 0.0, ""
	var silent []string
	for _, st := range s.streams {
		switch {
		case st.info != nil:
			answered++
			if limit := st.info.Config.MaxBytes; limit > 0 && share(st.info.State.Bytes, uint64(limit)) >= fullest {
				fullest, which = share(st.info.State.Bytes, uint64(limit)), st.name
			}
			out = append(out, s.room(st)...)
		case isSilent(st.err):
			silent = append(silent, st.name)
		}
	}
	if silent != nil {
		out = append(out, s.silent(silent))
	}
	text := fmt.Sprintf("%d of %d answer", answered, len(s.streams))
	if gone := s.gone(); gone > 0 {
		text += fmt.Sprintf(", %d %s not exist", gone, verb(gone, "does", "do"))
	}
	if which != "" {
		text += fmt.Sprintf("; the fullest is %s with %.0f%%", which, fullest*100)
	}
	return out, Check{Text: text}
}

// gone is how many streams do not exist.
func (s *snapshot) gone() (n int) {
	for _, st := range s.streams {
		if missing(st.err) {
			n++
		}
	}
	return n
}

func (s *snapshot) room(st streamState) []Finding {
	c, state := st.info.Config, st.info.State
	bytes, messages := share(state.Bytes, limitOf(c.MaxBytes)), share(state.Msgs, limitOf(c.MaxMsgs))
	seen := fmt.Sprintf("%s in %s (stream info)", size(state.Bytes), tasks(state.Msgs))
	if c.MaxBytes > 0 {
		seen = fmt.Sprintf("%s of %s in %s (stream info)", size(state.Bytes), size(uint64(c.MaxBytes)), tasks(state.Msgs))
	}
	if c.MaxMsgs > 0 {
		seen += ", at most " + strconv.FormatInt(c.MaxMsgs, 10)
	}
	object := "stream " + st.name
	follows, remedy := s.whenFull(st.name)
	noRoom := c.MaxBytes > 0 && slack(limitOf(c.MaxBytes), state.Bytes) < average(st.info)
	switch {
	case st.name == task.AdvisoryStream: // the oldest go first, and that is meant
		return nil
	case bytes >= full || messages >= full || noRoom:
		return []Finding{find("stream-full", object, st.name+" is full", state.Msgs).seen(seen).follows(follows).remedy(remedy...)}
	case bytes >= filling || messages >= filling:
		return []Finding{find("stream-filling", object, st.name+" fills up", state.Msgs).seen(seen).follows("When it is full: " + follows).remedy(remedy...)}
	}
	return nil
}

// whenFull is what a full stream means, and what to do.
func (s *snapshot) whenFull(name string) (follows string, remedy []string) {
	switch name {
	case task.DeadStream:
		return "a worker whose task is beyond help cannot bury it, keeps its slot and turns unready.",
			[]string{"drover dead ls   # then redrive or discard", "raise dead.max_bytes in the fleet file, then: drover streams apply"}
	case task.RetryStream:
		return "a worker whose task has failed cannot store its retry and keeps its slot until it can.",
			[]string{"drover streams plan   # RETRY is meant to have no limit of its own", "drover streams apply"}
	case bodiesStream:
		return "tasks with a body above 256 KiB are refused.",
			[]string{"raise bodies.max_bytes in the fleet file, then: drover streams apply", "drover dead ls   # dead letters keep their bodies"}
	}
	for _, c := range s.fleet.Classes {
		if c.Name.Stream() != name {
			continue
		}
		for _, l := range s.lanes {
			if l.want.Class == c.Name && !l.want.Retry && l.depth() > 0 {
				remedy = append(remedy, s.start(l.want.Service, "", "more workers, if it waits for them: drover lanes"))
			}
		}
		return "publishing to this class is refused with an error; what is stored is kept, and other classes go on.",
			append(remedy, "raise max_bytes of class "+string(c.Name)+" in the fleet file, then: drover streams apply")
	}
	return "what is to be written to it is refused; tasks are not touched.", []string{"nats stream info " + name, "drover streams plan"}
}

// silent is one finding for all streams that do not answer.
func (s *snapshot) silent(names []string) Finding {
	object, wrong := "stream "+names[0], names[0]+" does not answer: it has no leader"
	if len(names) > 1 {
		object, wrong = "streams", fmt.Sprintf("%d of %d streams do not answer: they have no leader", len(names), len(s.streams))
	}
	if s.cluster != "" && isSilent(s.accountErr) {
		object, wrong = "cluster "+s.cluster, "the broker's cluster has no quorum: half of its nodes or more are gone"
	}
	f := find("stream-silent", object, wrong, uint64(len(names))).
		seen(fmt.Sprintf("%s: no leader has answered a stream info within %v, while the broker answers in %v", head(names, 6), askLimit, s.rtt.Round(10*time.Microsecond))).
		follows("Nothing is stored in them or delivered from them until there is a leader again; what they hold is kept.")
	if s.cluster == "" {
		return f.remedy("nats server check stream --stream "+names[0], "look at the log of nats-server for "+names[0])
	}
	return f.remedy("nats server report jetstream --nkey keys/sys.nk   # or who else is of the system account: which nodes are down: more than half of a stream's replicas must live",
		"start the nodes that are down; an election takes 6 to 8 s")
}

func limitOf(n int64) uint64 { return uint64(max(n, 0)) }

func share(n, of uint64) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// slack is what is left of a limit.
func slack(limit, used uint64) uint64 {
	if used >= limit {
		return 0
	}
	return limit - used
}

func percent(n, of uint64) string { return fmt.Sprintf("%.0f%%", share(n, of)*100) }

// size is n bytes for people.
func size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if u == 0 || v == math.Trunc(v) {
		return fmt.Sprintf("%.0f %s", v, units[u])
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}
