// Package dev is the outside world on a developer's machine: a mail server that
// delivers to nobody, and a receiver of webhooks that can be told to fail. Both
// listen on loopback only.
//
// # Semantics
//
// The mail server takes every mail and keeps what [Mail] has of the last ones.
// It refuses recipients whose address begins with "bounce" for good (550), and puts
// off those that begin with "busy" once each (451).
//
// The receiver answers 200 to deliveries whose signature it can verify and 401 to
// others. Under /status/<code> it answers that code and under /hang never, whatever
// it was told; see [Receiver] for what can be told.
//
// # Concurrency
//
// Everything here is safe for concurrent use. Close waits for what was started.
package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// listen opens a port on loopback. When it is taken and another is allowed, that
// is any free one.
func listen(ctx context.Context, what string, port int, fallback bool) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if fallback && errors.Is(err, syscall.EADDRINUSE) {
		l, err = lc.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", what, err)
	}
	return l, nil
}

// last keeps the last few of what came.
type last[T any] struct{ all []T }

const keep = 100

func (l *last[T]) add(v T) {
	if len(l.all) >= keep {
		l.all = append(l.all[:0:0], l.all[1:]...)
	}
	l.all = append(l.all, v)
}
