package streams

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

type (
	streamConfig   = jetstream.StreamConfig
	consumerConfig = jetstream.ConsumerConfig
)

func streamAttrs() []attr[streamConfig] {
	type C = streamConfig
	return []attr[C]{{
		name:   "description",
		text:   func(c C) string { return c.Description },
		set:    func(to *C, from C) { to.Description = from.Description },
		serves: always[C],
	}, {
		name:   "subjects",
		text:   func(c C) string { return list(c.Subjects) },
		set:    func(to *C, from C) { to.Subjects = from.Subjects },
		serves: func(have, want C) bool { return len(uncovered(want.Subjects, have.Subjects)) == 0 },
	}, {
		name: "retention",
		text: func(c C) string { return strings.ToLower(c.Retention.String()) },
		set:  func(to *C, from C) { to.Retention = from.Retention },
		live: never[C],
	}, {
		name: "storage",
		text: func(c C) string { return strings.ToLower(c.Storage.String()) },
		set:  func(to *C, from C) { to.Storage = from.Storage },
		live: never[C],
	}, {
		name: "persistence",
		text: func(c C) string { return c.PersistMode.String() },
		set:  func(to *C, from C) { to.PersistMode = from.PersistMode },
		live: never[C],
	}, {
		name: "sources",
		text: func(c C) string { return strconv.FormatBool(c.Mirror != nil || len(c.Sources) > 0) },
		set:  func(to *C, from C) { to.Mirror, to.Sources = from.Mirror, from.Sources },
		live: never[C],
	}, {
		name: "subject transform",
		text: transform,
		set:  func(to *C, from C) { to.SubjectTransform = from.SubjectTransform },
		live: becomesFair, // otherwise no: stored tasks keep the subjects that they were given
	}, {
		name: "schedules",
		text: func(c C) string { return strconv.FormatBool(c.AllowMsgSchedules) },
		set:  func(to *C, from C) { to.AllowMsgSchedules = from.AllowMsgSchedules },
		live: func(have, _ C) bool { return !have.AllowMsgSchedules },
	}, {
		name: "rollup",
		text: func(c C) string { return strconv.FormatBool(c.AllowRollup) },
		set:  func(to *C, from C) { to.AllowRollup = from.AllowRollup },
		live: func(have, want C) bool { return want.AllowRollup || !have.AllowMsgSchedules },
	}, {
		name: "expiry by message", // with it whoever may publish a task may make it vanish
		text: func(c C) string { return strconv.FormatBool(c.AllowMsgTTL) },
		set:  func(to *C, from C) { to.AllowMsgTTL = from.AllowMsgTTL },
		live: func(have, _ C) bool { return !have.AllowMsgTTL },
	}, {
		name: "marker of what expired",
		text: func(c C) string { return limitAge(c.SubjectDeleteMarkerTTL) },
		set:  func(to *C, from C) { to.SubjectDeleteMarkerTTL = from.SubjectDeleteMarkerTTL },
	}, {
		name: "deny delete",
		text: func(c C) string { return strconv.FormatBool(c.DenyDelete) },
		set:  func(to *C, from C) { to.DenyDelete = from.DenyDelete },
		live: func(have, _ C) bool { return !have.DenyDelete },
	}, {
		name: "direct get",
		text: func(c C) string { return strconv.FormatBool(c.AllowDirect) },
		set:  func(to *C, from C) { to.AllowDirect = from.AllowDirect },
	}, {
		name: "discard",
		text: func(c C) string { return discard(c.Discard, c.DiscardNewPerSubject) },
		set: func(to *C, from C) {
			to.Discard, to.DiscardNewPerSubject = from.Discard, from.DiscardNewPerSubject
		},
	}, {
		name: "max messages",
		text: func(c C) string { return limit(c.MaxMsgs) },
		set:  func(to *C, from C) { to.MaxMsgs = from.MaxMsgs },
	}, {
		name: "max messages per subject",
		text: func(c C) string { return limit(c.MaxMsgsPerSubject) },
		set:  func(to *C, from C) { to.MaxMsgsPerSubject = from.MaxMsgsPerSubject },
	}, {
		name:   "max bytes",
		text:   func(c C) string { return limitBytes(c.MaxBytes) },
		set:    func(to *C, from C) { to.MaxBytes = from.MaxBytes },
		serves: func(_, want C) bool { return want.MaxBytes > 0 },
	}, {
		name:   "max message size",
		text:   func(c C) string { return limitBytes(int64(c.MaxMsgSize)) },
		set:    func(to *C, from C) { to.MaxMsgSize = from.MaxMsgSize },
		serves: func(_, want C) bool { return want.MaxMsgSize > 0 },
	}, {
		name: "max age",
		text: func(c C) string { return limitAge(c.MaxAge) },
		set:  func(to *C, from C) { to.MaxAge = from.MaxAge },
	}, {
		name:   "duplicate window",
		text:   func(c C) string { return humanDuration(c.Duplicates) },
		set:    func(to *C, from C) { to.Duplicates = from.Duplicates },
		same:   func(have, want C) bool { return want.Duplicates == 0 || have.Duplicates == want.Duplicates },
		serves: func(have, want C) bool { return have.Duplicates > want.Duplicates },
	}, {
		name:   "replicas",
		text:   func(c C) string { return strconv.Itoa(max(c.Replicas, 1)) },
		set:    func(to *C, from C) { to.Replicas = from.Replicas },
		serves: always[C],
		warn:   func(have, want C) bool { return max(have.Replicas, 1) < max(want.Replicas, 1) },
	}}
}

func consumerAttrs() []attr[consumerConfig] {
	type C = consumerConfig
	return []attr[C]{{
		// A new filter does not rewind: older tasks that match would never be delivered.
		name: "filter",
		text: func(c C) string { return list(append(slices.Clone(c.FilterSubjects), c.FilterSubject)) },
		set: func(to *C, from C) {
			to.FilterSubject, to.FilterSubjects = from.FilterSubject, from.FilterSubjects
		},
		live: makesRoom,
	}, {
		name: "delivery",
		text: delivery,
		set:  func(*C, C) {},
		live: never[C],
	}, {
		name: "acknowledgement",
		text: func(c C) string { return strings.TrimPrefix(strings.ToLower(c.AckPolicy.String()), "ack") },
		set:  func(to *C, from C) { to.AckPolicy = from.AckPolicy },
		live: never[C],
	}, {
		name:   "ack wait",
		text:   func(c C) string { return humanDuration(c.AckWait) },
		set:    func(to *C, from C) { to.AckWait = from.AckWait },
		serves: func(have, want C) bool { return have.AckWait >= min(want.AckWait, MinAckWait) },
	}, {
		name: "backoff", // would take the place of ack wait
		text: func(c C) string { return strconv.FormatBool(len(c.BackOff) > 0) },
		set:  func(to *C, from C) { to.BackOff = from.BackOff },
	}, {
		name:   "max deliver",
		text:   func(c C) string { return limit(int64(c.MaxDeliver)) },
		set:    func(to *C, from C) { to.MaxDeliver = from.MaxDeliver },
		serves: func(have, want C) bool { return have.MaxDeliver <= 0 || have.MaxDeliver > want.MaxDeliver },
	}, {
		name:   "max ack pending",
		text:   func(c C) string { return limit(int64(c.MaxAckPending)) },
		set:    func(to *C, from C) { to.MaxAckPending = from.MaxAckPending },
		serves: func(have, want C) bool { return have.MaxAckPending <= 0 || have.MaxAckPending > want.MaxAckPending },
	}, {
		name:   "max waiting",
		text:   func(c C) string { return strconv.Itoa(c.MaxWaiting) },
		set:    func(to *C, from C) { to.MaxWaiting = from.MaxWaiting },
		same:   func(have, want C) bool { return have.MaxWaiting >= want.MaxWaiting },
		live:   never[C],
		serves: func(have, _ C) bool { return have.MaxWaiting >= 2*waitingPerProcess },
	}, {
		name: "headers only",
		text: func(c C) string { return strconv.FormatBool(c.HeadersOnly) },
		set:  func(to *C, from C) { to.HeadersOnly = from.HeadersOnly },
	}, {
		name: "inactive threshold", // would remove the durable
		text: func(c C) string { return limitAge(c.InactiveThreshold) },
		set:  func(to *C, from C) { to.InactiveThreshold = from.InactiveThreshold },
	}, {
		name: "limits on pulls",
		text: func(c C) string {
			return strconv.FormatBool(c.MaxRequestBatch > 0 || c.MaxRequestExpires > 0 || c.MaxRequestMaxBytes > 0 || c.RateLimit > 0)
		},
		set: func(to *C, from C) {
			to.MaxRequestBatch, to.MaxRequestExpires = from.MaxRequestBatch, from.MaxRequestExpires
			to.MaxRequestMaxBytes, to.RateLimit = from.MaxRequestMaxBytes, from.RateLimit
		},
	}}
}

// delivery sums up what the broker fixes when a consumer is made.
func delivery(c consumerConfig) string {
	out := []string{strings.ToLower(c.DeliverPolicy.String())}
	if c.DeliverSubject != "" {
		out = append(out, "push")
	}
	if c.ReplayPolicy != jetstream.ReplayInstantPolicy {
		out = append(out, "at original speed")
	}
	if c.MemoryStorage {
		out = append(out, "in memory")
	}
	if c.PriorityPolicy != jetstream.PriorityPolicyNone {
		out = append(out, "by priority")
	}
	return strings.Join(out, ", ")
}

func transform(c streamConfig) string {
	if c.SubjectTransform == nil {
		return "none"
	}
	return c.SubjectTransform.Source + " to " + c.SubjectTransform.Destination
}

func discard(p jetstream.DiscardPolicy, perSubject bool) string {
	s := strings.TrimPrefix(strings.ToLower(p.String()), "discard")
	if perSubject {
		s += ", per subject too"
	}
	return s
}

func list(subjects []string) string {
	s := slices.DeleteFunc(slices.Sorted(slices.Values(subjects)), func(s string) bool { return s == "" })
	return strings.Join(s, " ")
}

func limit(n int64) string {
	if n <= 0 {
		return "none"
	}
	return strconv.FormatInt(n, 10)
}

func limitBytes(n int64) string {
	if n <= 0 {
		return "none"
	}
	return humanBytes(n)
}

func limitAge(d time.Duration) string {
	if d <= 0 {
		return "none"
	}
	return humanDuration(d)
}
