package streams

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// refusal is why a change cannot be made now, and what to do first.
type refusal struct {
	notes []string
	do    []string
}

func (r *refusal) add(note string, do ...string) {
	r.notes = append(r.notes, note)
	r.do = append(r.do, do...)
}

// into turns s into the refusal, if there is one.
func (r *refusal) into(s *step) {
	if len(r.notes) > 0 {
		s.Action, s.Note, s.Do, s.do = Refuse, strings.Join(r.notes, "; "), r.do, nil
	}
}

// remake refuses what the broker cannot change of a living stream.
func (r *refusal) remake(info *jetstream.StreamInfo, fixed []string) {
	name := info.Config.Name
	var first []string
	if info.State.Msgs > 0 {
		first = append(first, drain(name))
	}
	r.add("the broker cannot change "+strings.Join(fixed, ", ")+" of a living stream without harm: drain it, remove it, then apply again",
		append(first, "nats stream rm "+name, "drover streams apply")...)
}

// shrink refuses a limit below what is stored: the broker would keep all of it,
// and refuse everything new until enough was drained.
func (r *refusal) shrink(info *jetstream.StreamInfo, want jetstream.StreamConfig) {
	have := info.Config.MaxBytes
	lower := want.MaxBytes > 0 && (have <= 0 || want.MaxBytes < have)
	if want.Discard != jetstream.DiscardNew || !lower || info.State.Bytes <= uint64(want.MaxBytes) {
		return
	}
	r.add(fmt.Sprintf("it holds %s, more than max bytes of %s: everything new would be refused until it is drained that far. "+
		"Drain it first, or ask for more", roughBytes(info.State.Bytes), humanBytes(want.MaxBytes)), drain(want.Name))
}

// copies refuses to remove copies while one of them lags: the one that is kept
// could be that one.
func (r *refusal) copies(info *jetstream.StreamInfo, want jetstream.StreamConfig) {
	if info.Cluster == nil || want.Replicas >= info.Config.Replicas {
		return
	}
	for _, p := range info.Cluster.Replicas {
		if p.Offline || !p.Current {
			r.add(fmt.Sprintf("its copy on %s is not up to date, and could be the one that is kept: wait until all are", p.Name),
				"nats stream info "+want.Name)
			return
		}
	}
}

// strands refuses to let go of subjects that tasks are stored under.
func (r *refusal) strands(ctx context.Context, s jetstream.Stream, have, want jetstream.StreamConfig) error {
	kept := want.Subjects // by the durables that there were before
	if have.SubjectTransform != nil {
		kept = storedAs(want)
	}
	for _, lane := range lanesIn(uncovered(storedAs(have), kept)) {
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(lane))
		if err != nil {
			return fmt.Errorf("count tasks of %s: %w", lane, err)
		}
		var n uint64
		for have, count := range info.State.Subjects {
			if len(uncovered([]string{have}, kept)) > 0 {
				n += count
			}
		}
		switch {
		case n == 0:
		case becomesFair(have, want) && slices.Contains(lanesIn(want.Subjects), lane):
			r.add(fmt.Sprintf("%s of %s, with more behind the service than an action and a tenant, would be left without a worker in a fair class: "+
				"have workers take them first, which makes them dead letters", messages(n), lane), lanesOf(lane))
		default:
			r.add(fmt.Sprintf("%s of %s would be left without a worker: keep the service in the fleet until its lane is empty, or discard them", messages(n), lane),
				lanesOf(lane), fmt.Sprintf("nats stream purge %s --subject '%s'    # or discards them", info.Config.Name, lane))
		}
	}
	return nil
}

// lease refuses a shorter ack-wait while workers hold tasks or ask for them: they
// go by the one they read when they started, and what they hold would be handed
// out again while it runs. A longer one does no harm.
func (r *refusal) lease(have *jetstream.ConsumerInfo, want Consumer) {
	if want.Config.AckWait >= have.Config.AckWait || have.NumAckPending == 0 && have.NumWaiting == 0 {
		return
	}
	r.add(fmt.Sprintf("workers of %s hold tasks by an ack wait of %s and read it only when they start: a shorter one would run their tasks twice. "+
		"Stop them, apply, and start them again; nothing is lost meanwhile", want.Service, humanDuration(have.Config.AckWait)),
		fmt.Sprintf("drover lanes --service %s    # until IN FLIGHT and PULLS are 0", want.Service))
}

// remake of a consumer: what the broker cannot change of a living one.
func (r *refusal) remakeConsumer(want Consumer, fixed []string) {
	r.add(fmt.Sprintf("the broker cannot change %s of a living consumer without harm: stop the workers of %s, remove it, then apply again; its tasks stay in the stream",
		strings.Join(fixed, ", "), want.Service),
		fmt.Sprintf("nats consumer rm %s %s", want.Stream, want.Config.Durable), "drover streams apply")
}

// drain is the command that shows what a stream still holds.
func drain(stream string) string {
	bucket, object := strings.CutPrefix(stream, "OBJ_")
	key, value := strings.CutPrefix(stream, "KV_")
	switch {
	case strings.HasPrefix(stream, tasksPrefix):
		return "drover lanes --class " + strings.ToLower(strings.TrimPrefix(stream, tasksPrefix)) + "    # with producers stopped, until it is drained"
	case stream == task.RetryStream:
		return "drover lanes    # until nothing is in the lanes of retries, TIMERS included"
	case stream == task.DeadStream:
		return "drover dead ls    # redrive or discard them"
	case object:
		return "nats object ls " + bucket + "    # each goes with its task"
	case value:
		return "nats kv ls " + key
	}
	return "nats stream view " + stream
}

// lanesOf is the command that shows the lane of a subject of tasks.
func lanesOf(subject string) string {
	s := strings.Split(subject, ".")
	if len(s) < 3 || s[1] == "*" || s[2] == "*" || s[2] == ">" {
		return "drover lanes"
	}
	return fmt.Sprintf("drover lanes --class %s --service %s    # with the fleet file that has it", s[1], s[2])
}
