package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const tryLimit = 5 * time.Second // of one request to the broker

// broker asks the leaders of streams. Direct get, which nats.go prefers, may be
// answered by a replica that is behind; what changes something must not rely on it.
type broker struct{ js jetstream.JetStream }

// message is one stored message.
type message struct {
	Stream   string
	Subject  string
	Sequence uint64
	Header   nats.Header
	Body     []byte
	Time     time.Time
}

// errGone says that a message is not in its stream any more.
var errGone = errors.New("the message is gone")

func (b broker) call(ctx context.Context, function string, req, resp any) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	prefix := jetstream.DefaultAPIPrefix
	switch o := b.js.Options(); {
	case o.Domain != "":
		prefix = "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		prefix = strings.TrimSuffix(o.APIPrefix, ".") + "."
	}
	m, err := b.js.Conn().RequestWithContext(ctx, prefix+function, body)
	if err != nil {
		return err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return fmt.Errorf("the broker's answer: %w", err)
	}
	if e := failed.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound || e.ErrorCode == jetstream.JSErrCodeStreamNotFound {
			return errGone
		}
		return e
	}
	return json.Unmarshal(m.Data, resp)
}

// at returns the message with this sequence, as the leader of the stream has it,
// or errGone.
func (b broker) at(ctx context.Context, stream string, sequence uint64) (*message, error) {
	m, err := b.get(ctx, stream, map[string]any{"seq": sequence})
	if err != nil && !errors.Is(err, errGone) {
		return nil, fmt.Errorf("read %s %d: %w", stream, sequence, err)
	}
	return m, err
}

// last returns the last message of a subject, as the leader of the stream has it,
// or errGone.
func (b broker) last(ctx context.Context, stream, subject string) (*message, error) {
	m, err := b.get(ctx, stream, map[string]any{"last_by_subj": subject})
	if err != nil && !errors.Is(err, errGone) {
		return nil, fmt.Errorf("look for %s in %s: %w", subject, stream, err)
	}
	return m, err
}

func (b broker) get(ctx context.Context, stream string, req any) (*message, error) {
	var resp struct {
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := b.call(ctx, "STREAM.MSG.GET."+stream, req, &resp); err != nil {
		return nil, err
	}
	m := &resp.Message
	out := &message{Stream: stream, Subject: m.Subject, Sequence: m.Sequence, Body: m.Data, Time: m.Time}
	if len(m.Header) > 0 {
		// What does not parse leaves no header, as it does for a worker.
		out.Header, _ = nats.DecodeHeadersMsg(m.Header)
	}
	return out, nil
}

// remove deletes one message. One that is gone already is no error.
func (b broker) remove(ctx context.Context, stream string, sequence uint64) error {
	var resp struct{}
	err := b.call(ctx, "STREAM.MSG.DELETE."+stream, map[string]any{"seq": sequence, "no_erase": true}, &resp)
	if err == nil || errors.Is(err, errGone) {
		return nil
	}
	// A message that is gone has no error code of its own here.
	if _, gone := b.at(ctx, stream, sequence); errors.Is(gone, errGone) {
		return nil
	}
	return fmt.Errorf("delete %s %d: %w", stream, sequence, err)
}

// state is what m says of its task, as far as it can be read.
func (m *message) state() task.State {
	st, _ := task.ReadState(m.Subject, m.Header, task.Stored{Stream: m.Stream, Sequence: m.Sequence, Time: m.Time})
	return st
}

// scan hands the messages of filter to f, oldest first, from sequence from on. It
// makes no consumer, which a work-queue would refuse. It ends without an error
// where the stream ends or is missing, and when f returns false.
func (b broker) scan(ctx context.Context, stream, filter string, from uint64, f func(*message) bool) error {
	for {
		m, err := b.get(ctx, stream, map[string]any{"seq": max(from, 1), "next_by_subj": filter})
		if errors.Is(err, errGone) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		if !f(m) {
			return nil
		}
		from = m.Sequence + 1
	}
}
