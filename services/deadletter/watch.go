package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
)

const (
	letterFetch = 256 // at once
	letterWait  = 500 * time.Millisecond
	saveRetry   = time.Second
)

// watch counts the letters that come to DEAD until ctx is done. It reads their
// headers only. A letter is acknowledged when its count is in the bucket, so each
// is counted; after a crash one may be counted twice. It returns errDeposed when
// another process leads.
func (a *alerter) watch(ctx context.Context) error {
	for ctx.Err() == nil {
		err := a.watchOnce(ctx)
		if errors.Is(err, errDeposed) {
			return err
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		if news := a.trouble.set("watch DEAD", err); news && err != nil {
			a.log.WarnContext(ctx, "dead letters are not watched, so no alerts are raised", slog.Any("error", err))
		}
		if err != nil {
			sleep(ctx, saveRetry)
		}
	}
	return nil
}

func (a *alerter) watchOnce(ctx context.Context) error {
	c, err := a.js.Consumer(ctx, task.DeadStream, consumerName)
	if err != nil {
		return fmt.Errorf("open consumer %s/%s: %w: run `drover streams apply`", task.DeadStream, consumerName, err)
	}
	for ctx.Err() == nil {
		batch, err := c.Fetch(letterFetch, jetstream.FetchMaxWait(letterWait))
		if err != nil {
			return fmt.Errorf("read DEAD: %w", err)
		}
		var counted []jetstream.Msg
		for msg := range batch.Messages() {
			if err := a.add(ctx, msg); err != nil {
				return err // it comes again
			}
			counted = append(counted, msg)
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("read DEAD: %w", err)
		}
		if err := a.save(ctx); err != nil {
			return err
		}
		for _, msg := range counted {
			if err := msg.Ack(); err != nil {
				return fmt.Errorf("acknowledge a dead letter that was counted: %w", err)
			}
		}
		a.trouble.set("watch DEAD", nil)
	}
	return nil
}

// add counts one letter.
func (a *alerter) add(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read DEAD: %w", err)
	}
	l := &deadletter.Letter{Sequence: meta.Sequence.Stream, StoredAt: meta.Timestamp, Where: msg.Subject(), Header: msg.Headers()}
	l.State, l.Problem = task.ReadState(l.Where, l.Header, task.Stored{Stream: task.DeadStream, Sequence: l.Sequence, Time: l.StoredAt})
	if part := strings.Split(l.Where, "."); l.Subject.Service == "" && len(part) == 5 {
		l.Subject = task.Subject{Class: task.Class(part[1]), Service: part[2], Action: part[3]}
	}
	g, err := a.find(ctx, l, time.Now())
	if err != nil {
		return err
	}
	a.count(g, l)
	return nil
}

// saveLast writes down what was told since the last time, so that the next leader
// does not tell it again.
func (a *alerter) saveLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := a.save(ctx); err != nil {
		a.log.WarnContext(ctx, "what people were told is not written down; they may be told again", slog.Any("error", err))
	}
}
