package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/chaos"
)

// inventory writes down what the streams hold in the end.
func (f *fleet) inventory() {
	f.tb.Helper()
	var events []chaos.Event
	f.insist("list dead letters", func(ctx context.Context) (err error) {
		events, err = f.letters(ctx)
		return err
	})
	for _, stream := range []string{task.Default.Stream(), task.RetryStream} {
		f.insist("list what is left in "+stream, func(ctx context.Context) error {
			left, err := f.messages(ctx, f.js, stream, ">")
			if err != nil {
				return err
			}
			for _, m := range left {
				events = append(events, chaos.Event{What: chaos.Left, ID: m.ID, Stream: stream, Sequence: m.sequence})
			}
			return nil
		})
	}
	f.insist("list bodies", func(ctx context.Context) error {
		store, err := f.js.ObjectStore(ctx, task.BodiesBucket)
		if err != nil {
			return err
		}
		infos, err := store.List(ctx)
		if errors.Is(err, jetstream.ErrNoObjectsFound) {
			return nil
		}
		for _, info := range infos {
			if name := strings.Split(info.Name, ":"); len(name) == 3 { // kind, id, and a part that is new
				events = append(events, chaos.Event{What: chaos.Body, ID: name[1]})
			}
		}
		return err
	})
	for _, e := range events {
		f.write(e)
	}
}

func (f *fleet) letters(ctx context.Context) (events []chaos.Event, err error) {
	now, wall := chaos.Now(), time.Now()
	for l, err := range deadletter.List(ctx, f.js, deadletter.Filter{}) {
		if err != nil {
			return nil, err
		}
		_, missing := l.Arguments(ctx, f.js)
		if missing != nil && l.Reason == task.Undecodable {
			missing = nil // that is what it died of
		}
		events = append(events, chaos.Event{
			What: chaos.Letter, ID: l.ID, Generation: l.Generation, Attempt: l.Attempt, Reason: string(l.Reason),
			Failures: len(l.Errors), HasBody: missing == nil,
			Mono: now - int64(wall.Sub(l.StoredAt)), Wall: l.StoredAt.UnixNano(),
		})
	}
	return events, nil
}

// message is one message of a stream, and what its headers say of its task.
type message struct {
	task.State
	sequence uint64
}

const mostMessages = 500 // that messages reads at a time

// messages returns what the leader has on the subjects that match filter.
func (f *fleet) messages(ctx context.Context, js jetstream.JetStream, stream, filter string) (out []message, err error) {
	for seq := uint64(1); len(out) < mostMessages; {
		req, err := json.Marshal(map[string]any{"seq": seq, "next_by_subj": filter})
		if err != nil {
			return nil, err
		}
		answer, err := js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, req)
		if err != nil {
			return nil, err
		}
		var resp struct {
			Error   *jetstream.APIError `json:"error"`
			Message *struct {
				Subject string    `json:"subject"`
				Seq     uint64    `json:"seq"`
				Hdrs    []byte    `json:"hdrs"`
				Time    time.Time `json:"time"`
			} `json:"message"`
		}
		switch err := json.Unmarshal(answer.Data, &resp); {
		case err != nil:
			return nil, err
		case resp.Error != nil && resp.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
			return out, nil
		case resp.Error != nil:
			return nil, resp.Error
		case resp.Message == nil:
			return nil, errors.New("the broker answered without a message")
		}
		m := resp.Message
		h, err := nats.DecodeHeadersMsg(m.Hdrs)
		if err != nil {
			return nil, err
		}
		st, _ := task.ReadState(m.Subject, h, task.Stored{Stream: stream, Sequence: m.Seq, Time: m.Time}) // an id in any case
		out = append(out, message{st, m.Seq})
		seq = m.Seq + 1
	}
	return out, nil
}

// watchTimers writes down which timers are in RETRY, for as long as they are
// there, until the returned function is called.
func (f *fleet) watchTimers() (stop func()) {
	f.tb.Helper()
	js := f.connect() // its answers do not queue behind the driver's
	ctx, cancel := context.WithCancel(f.tb.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		seen := map[uint64]*chaos.Event{}
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			f.lookAtTimers(ctx, js, seen)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		for _, e := range seen {
			f.timerGone(e)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		watching.Wait()
	})
	f.tb.Cleanup(stop)
	return stop
}

// lookAtTimers brings seen up to date: a timer was there from the end of the
// first look that found it to the beginning of the last.
func (f *fleet) lookAtTimers(ctx context.Context, js jetstream.JetStream, seen map[uint64]*chaos.Event) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	before := chaos.Now()
	timers, err := f.messages(ctx, js, task.RetryStream, "retry.wait.>")
	if err != nil || len(timers) == mostMessages { // it cannot tell what is gone
		return
	}
	after := chaos.Now()
	there := map[uint64]bool{}
	for _, m := range timers {
		there[m.sequence] = true
		if e := seen[m.sequence]; e != nil {
			e.Mono = before
			continue
		}
		seen[m.sequence] = &chaos.Event{What: chaos.Timer, ID: m.ID, Attempt: m.Attempt, Since: after, Mono: after}
	}
	for seq, e := range seen {
		if !there[seq] {
			f.timerGone(e)
			delete(seen, seq)
		}
	}
}

func (f *fleet) timerGone(e *chaos.Event) {
	if e.Mono <= e.Since {
		return
	}
	if err := f.ledger.Write(*e); err != nil {
		f.tb.Error(err)
	}
}
