package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
)

// work takes its time and does nothing else.
type work struct {
	Millis int `msgpack:"ms"` // ms
}

func (work) Kind() string      { return "demo.work" }
func (work) Class() task.Class { return task.Slow }

// crash kills the process that runs it, every time.
type crash struct{}

func (crash) Kind() string      { return "demo.crash" }
func (crash) Class() task.Class { return task.Slow }

// photo takes as much memory as its picture has.
type photo struct {
	MiB int `msgpack:"mib"`
}

func (photo) Kind() string      { return "demo.photo" }
func (photo) Class() task.Class { return task.Slow }

const (
	photoCap  = 128 << 20 // bytes that a photo's process may take
	largeMiB  = 1 << 10   // what the too large photo would
	usualMiB  = 4
	photoRuns = 2 // attempts
)

// seenSubject is where the service says what its handlers do. It is no part of a
// fleet: the demo listens there, so that it does not have to believe the streams.
const seenSubject = "demo.seen"

// seen is one such saying.
type seen struct {
	ID    string    `json:"id"`
	At    time.Time `json:"at"`
	Done  bool      `json:"done"`  // it is about to return nil; else it has started
	Child bool      `json:"child"` // it runs alone, in a process of its own
}

const serviceName = "demo"

// Service is a service that only a demo has. It is not part of any fleet but the
// demo's, and `drover run demo` starts it.
func Service() service.Service {
	return service.Service{Name: serviceName, Help: "Works tasks that sleep, take memory or kill their process, for drover demo.", Run: runService}
}

func runService(ctx context.Context, env *service.Env) error {
	child := worker.IsChild()
	w, err := worker.New(env.JetStream, env.Service, env.WorkerOptions()...)
	if err != nil {
		return err
	}
	nc := env.JetStream.Conn()
	worker.Handle(w, func(ctx context.Context, args work) error {
		if err := say(ctx, nc, seen{Child: child}); err != nil {
			return err
		}
		select {
		case <-time.After(time.Duration(args.Millis) * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return say(ctx, nc, seen{Child: child, Done: true})
	})
	worker.Handle(w, func(ctx context.Context, _ crash) error {
		if err := say(ctx, nc, seen{Child: child}); err != nil {
			return err
		}
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGKILL); err != nil {
			return fmt.Errorf("end this process: %w", err)
		}
		<-ctx.Done() // it does not come to this
		return context.Cause(ctx)
	})
	worker.Handle(w, func(ctx context.Context, args photo) error {
		if err := say(ctx, nc, seen{Child: child}); err != nil {
			return err
		}
		var picture [][]byte
		for range args.MiB {
			picture = append(picture, bytes.Repeat([]byte{1}, 1<<20))
		}
		runtime.KeepAlive(picture)
		return say(ctx, nc, seen{Child: child, Done: true})
	}, worker.Isolated(worker.Memory(photoCap)), worker.Retry(retry.Policy{Attempts: photoRuns, Base: 100 * time.Millisecond, Cap: 100 * time.Millisecond}))
	return env.Run(ctx, w)
}

// say publishes s of the task of ctx, and returns once the broker has heard it.
func say(ctx context.Context, nc *nats.Conn, s seen) error {
	info, _ := task.FromContext(ctx)
	s.ID, s.At = info.Key(), time.Now()
	b, err := json.Marshal(s)
	if err == nil {
		err = nc.Publish(seenSubject, b)
	}
	if err == nil {
		err = nc.FlushWithContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("say what is done: %w", err)
	}
	return nil
}
