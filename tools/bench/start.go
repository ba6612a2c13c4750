package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/task"
)

const (
	startRate  = 200 // tasks/s
	startLimit = 30 * time.Second
)

// starts publishes tasks at a steady rate and returns how long each took from the
// call of publish to its handler.
func (r *run) starts(ctx context.Context, take consume, publish func(ctx context.Context, n int) error) ([]time.Duration, error) {
	if err := r.fresh(ctx); err != nil {
		return nil, err
	}
	n := max(1, int(r.Start.Seconds()*startRate))
	base := time.Now()
	sent, took := make([]atomic.Int64, n), make([]atomic.Int64, n) // ns
	var handled atomic.Int64
	all := make(chan struct{})
	detached, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), r.Start+startLimit,
		fmt.Errorf("not all tasks had started %v after the last was published", startLimit))
	defer cancel()
	stop, err := take(detached, func(i int) {
		took[i].Store(int64(time.Since(base)) - sent[i].Load())
		if handled.Add(1) == int64(n) {
			close(all)
		}
	})
	if err != nil {
		return nil, err
	}
	err = publishAt(ctx, detached, n, func(ctx context.Context, i int) error {
		sent[i].Store(int64(time.Since(base)))
		return publish(ctx, i)
	})
	if err == nil {
		select {
		case <-all:
		case <-detached.Done():
			err = context.Cause(detached)
		}
	}
	err = errors.Join(err, r.empty(detached)) // before the worker stops, so that it has nothing to give back
	if err := errors.Join(err, stop()); err != nil {
		return nil, err
	}
	out := make([]time.Duration, n)
	for i := range took {
		out[i] = time.Duration(took[i].Load())
	}
	return out, nil
}

// publishAt calls publish n times at the steady rate until ctx ends, each in a
// goroutine of its own, so that a slow one delays no other.
func publishAt(ctx, detached context.Context, n int, publish func(ctx context.Context, i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	ticks := time.NewTicker(time.Second / startRate)
	defer ticks.Stop()
	var ended error
	for i := 0; i < n && ended == nil; i++ {
		select {
		case <-ticks.C:
			wg.Go(func() { errs[i] = publish(detached, i) })
		case <-ctx.Done():
			ended = context.Cause(ctx)
		}
	}
	wg.Wait()
	return errors.Join(ended, errors.Join(errs...))
}

// startOurs measures a worker with a client.
func (r *run) startOurs(ctx context.Context) ([]time.Duration, error) {
	return r.starts(ctx, r.byWorker, func(ctx context.Context, n int) error {
		_, err := r.client.Publish(ctx, note{Text: text, N: n})
		return err
	})
}

const numberHeader = "N" // of a message of startBare

// startBare measures a bare consumer with a bare publish.
func (r *run) startBare(ctx context.Context) ([]time.Duration, error) {
	body, err := task.Marshal(note{Text: text, N: 1})
	if err != nil {
		return nil, err
	}
	number := func(m jetstream.Msg) int {
		n, _ := strconv.Atoi(m.Headers().Get(numberHeader)) // the stream holds nothing else
		return n
	}
	return r.starts(ctx, r.byNats(number), func(ctx context.Context, n int) error {
		m := message(body, true)
		m.Header.Set(numberHeader, strconv.Itoa(n))
		_, err := r.pub.PublishMsg(ctx, m)
		return err
	})
}
