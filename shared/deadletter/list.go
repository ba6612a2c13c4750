package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

// List yields the letters that meet f, oldest first. It stops at what is in DEAD
// when it starts, so that redriving each letter ends even if all die again. After
// an error it yields nothing more; the error wraps [ErrFilter] or
// task.ErrBadSubject for a filter that can match nothing, and [ErrNoStream].
func List(ctx context.Context, js jetstream.JetStream, f Filter) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		if err := list(ctx, js, &f, yield); err != nil {
			yield(Letter{}, fmt.Errorf("list dead letters: %w", err))
		}
	}
}

func list(ctx context.Context, js jetstream.JetStream, f *Filter, yield func(Letter, error) bool) error {
	subject, err := f.subject()
	if err != nil {
		return err
	}
	var last []Letter
	if err := get(ctx, js, request{Last: subject}, &last); err != nil || len(last) == 0 {
		return err
	}
	req := request{Next: subject, Batch: batchSize, MaxBytes: batchBytes}
	if req.Sequence = 1; !f.Since.IsZero() {
		req.Sequence, req.Start = 0, &f.Since
	}
	for yielded := 0; ; {
		var letters []Letter
		if err := get(ctx, js, req, &letters); err != nil || len(letters) == 0 {
			return err
		}
		for _, l := range letters {
			if l.Sequence > last[0].Sequence {
				return nil
			}
			if !f.matches(&l) {
				continue
			}
			if !yield(l, nil) {
				return nil
			}
			if yielded++; yielded == f.Limit {
				return nil
			}
		}
		req.Sequence, req.Start = letters[len(letters)-1].Sequence+1, nil
	}
}

const (
	batchSize  = 1024 // the broker counts what is left at the end of each
	batchBytes = 4 << 20
)

// request is a direct get, as the broker wants it (ADR-31 of the NATS project).
type request struct {
	Sequence uint64     `json:"seq,omitempty"`
	Start    *time.Time `json:"start_time,omitempty"`
	Next     string     `json:"next_by_subj,omitempty"`
	Last     string     `json:"last_by_subj,omitempty"`
	Batch    int        `json:"batch,omitempty"`
	MaxBytes int        `json:"max_bytes,omitempty"`
}

// get appends what the broker has for req to letters.
func get(ctx context.Context, js jetstream.JetStream, req request, letters *[]Letter) error {
	err := repeat(ctx, func(ctx context.Context) error {
		*letters = (*letters)[:0]
		return getOnce(ctx, js, &req, letters)
	})
	if errors.Is(err, nats.ErrNoResponders) {
		return ErrNoStream
	}
	return err
}

func getOnce(ctx context.Context, js jetstream.JetStream, req *request, letters *[]Letter) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	nc := js.Conn()
	inbox := nc.NewInbox()
	answers := make(chan *nats.Msg, batchSize+1) // all there can be: the reader must not wait
	sub, err := nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
	if err := nc.PublishRequest(api(js, "DIRECT.GET", task.DeadStream), inbox, body); err != nil {
		return err
	}
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var l Letter
		if len(m.Header[headerSequence]) > 0 {
			l, err = fromDirect(m)
		} else {
			switch status := m.Header.Get(headerStatus); status {
			case "404", "204": // there is nothing, there is no more
				return nil
			case "503":
				return nats.ErrNoResponders
			case "": // nats.go could not decode the headers, and drops them all
				l, err = next(ctx, js, req, *letters)
			default:
				return fmt.Errorf("the broker refuses to read: %s %s", status, m.Header.Get("Description"))
			}
		}
		if err != nil {
			return err
		}
		if *letters = append(*letters, l); req.Batch == 0 {
			return nil
		}
	}
}

// next asks the leader for the letter that follows those that were got for req.
func next(ctx context.Context, js jetstream.JetStream, req *request, got []Letter) (Letter, error) {
	seq := max(req.Sequence, 1)
	if len(got) > 0 {
		seq = got[len(got)-1].Sequence + 1
	}
	if req.Last != "" {
		return ask(ctx, js, request{Last: req.Last})
	}
	return ask(ctx, js, request{Sequence: seq, Next: req.Next})
}

// Get returns the letter of the task with this id. Of several letters of one
// task, it is that of the latest generation. It returns an error wrapping
// [ErrNotFound], [ErrNoStream], or [ErrAmbiguous] if several tasks died under the
// id; [At] then gets one of them.
func Get(ctx context.Context, js jetstream.JetStream, id string) (Letter, error) {
	if id == "" {
		return Letter{}, fmt.Errorf("get dead letter: %w: no id", ErrNotFound)
	}
	var found []Letter
	for l, err := range List(ctx, js, Filter{ID: id}) {
		if err != nil {
			return Letter{}, fmt.Errorf("get dead letter %s: %w", id, err)
		}
		if n := len(found); n > 0 && found[n-1].Where == l.Where {
			if l.Generation >= found[n-1].Generation {
				found[n-1] = l
			}
			continue
		}
		found = append(found, l)
	}
	switch len(found) {
	case 0:
		return Letter{}, fmt.Errorf("get dead letter %s: %w", id, ErrNotFound)
	case 1:
		return found[0], nil
	}
	var which []string
	for _, l := range found {
		which = append(which, fmt.Sprintf("%d is %s in class %s", l.Sequence, l.Subject.Kind(), l.Subject.Class))
	}
	return Letter{}, fmt.Errorf("get dead letter %s: %w: %s: name the sequence", id, ErrAmbiguous, strings.Join(which, ", "))
}
