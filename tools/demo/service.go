package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/services/service"
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
	return service.Service{Name: serviceName, Help: "Works tasks that sleep or kill their process, for drover demo.", Run: runService}
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
