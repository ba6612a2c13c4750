package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
)

// publishOne publishes with Drover and bare nats.go in turn, and returns how long
// each publish took.
func (r *run) publishOne(ctx context.Context) (ours, bare []time.Duration, err error) {
	if err := r.fresh(ctx); err != nil {
		return nil, nil, err
	}
	n := note{Text: text, N: 1}
	body, err := task.Marshal(n)
	if err != nil {
		return nil, nil, err
	}
	both := []struct {
		took    *[]time.Duration
		publish func() error
	}{
		{&ours, func() error { _, err := r.client.Publish(ctx, n); return err }},
		{&bare, func() error {
			_, err := r.pub.PublishMsg(ctx, message(body, true))
			return err
		}},
	}
	for i := range r.Single {
		for j := range both {
			b := both[(i+j)%2] // who goes first alternates as well
			begin := time.Now()
			if err := b.publish(); err != nil {
				return nil, nil, err
			}
			*b.took = append(*b.took, time.Since(begin))
		}
	}
	return ours, bare, nil
}

// message is what a bare client publishes: the same body, encoded before.
func message(body []byte, id bool) *nats.Msg {
	m := &nats.Msg{Subject: subject, Data: body}
	if id {
		m.Header = nats.Header{task.HeaderMsgID: {rand.Text()}}
	}
	return m
}

// publishMany returns the tasks/s of PublishAll.
func (r *run) publishMany(ctx context.Context) (float64, error) {
	if err := r.fresh(ctx); err != nil {
		return 0, err
	}
	notes := r.notes()
	begin := time.Now()
	if _, err := client.PublishAll(ctx, r.client, notes); err != nil {
		return 0, err
	}
	return float64(len(notes)) / time.Since(begin).Seconds(), nil
}

// publishManyBare returns the tasks/s of nats.go's async publish, with an id for
// each message or without.
func (r *run) publishManyBare(ctx context.Context, id bool) (float64, error) {
	if err := r.fresh(ctx); err != nil {
		return 0, err
	}
	body, err := task.Marshal(note{Text: text, N: 1})
	if err != nil {
		return 0, err
	}
	js, err := jetstream.New(r.pub.Conn()) // with pending answers of its own
	if err != nil {
		return 0, err
	}
	defer js.CleanupPublisher()
	futures := make([]jetstream.PubAckFuture, r.Tasks)
	begin := time.Now()
	for i := range futures {
		if futures[i], err = js.PublishMsgAsync(message(body, id), jetstream.WithStallWait(askLimit)); err != nil {
			return 0, err
		}
	}
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return 0, err
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for answers: %w", context.Cause(ctx))
		}
	}
	return float64(r.Tasks) / time.Since(begin).Seconds(), nil
}
