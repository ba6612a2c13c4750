package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/broker/embed"
	"github.com/droverhq/drover/shared/circuit"
	"github.com/droverhq/drover/shared/permit"
	"github.com/droverhq/drover/shared/quota"
	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// Resize asks for one picture to be scaled to a width.
type Resize struct {
	Key   string `msgpack:"key"`
	Width int    `msgpack:"width"` // px
}

func (Resize) Kind() string { return "image.resize" }

// onImageFleet calls f with an embedded broker that carries a fleet with the service
// "image", and prints the error it returns. In production: broker.Connect, and
// `drover streams apply`.
func onImageFleet(f func(ctx context.Context, cancel func(), js jetstream.JetStream) error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	js, stop, err := fleetWithImage(ctx)
	if err == nil {
		defer stop()
		err = f(ctx, cancel, js)
	}
	if err != nil {
		fmt.Println(err)
	}
}

func fleetWithImage(ctx context.Context) (js jetstream.JetStream, stop func(), err error) {
	dir, err := os.MkdirTemp("", "drover")
	if err != nil {
		return nil, nil, err
	}
	b, err := embed.Start(embed.Config{Dir: dir, Port: -1})
	if err != nil {
		return nil, nil, err
	}
	if js, err = broker.Connect(ctx, broker.Options{URL: b.URL()}); err != nil {
		return nil, nil, err
	}
	fleet := streams.Default()
	fleet.Services = append(fleet.Services, streams.Service{Name: "image", Classes: []task.Class{task.Default, task.Bulk}})
	if _, err := streams.Apply(ctx, js, fleet); err != nil {
		return nil, nil, err
	}
	return js, func() {
		js.Conn().Close()
		b.Shutdown()
		_ = os.RemoveAll(dir)
	}, nil
}

func ExampleHandle() {
	onImageFleet(func(ctx context.Context, cancel func(), js jetstream.JetStream) error {
		w, err := worker.New(js, "image")
		if err != nil {
			return err
		}
		worker.Handle(w, func(ctx context.Context, r Resize) error {
			info, _ := task.FromContext(ctx)
			fmt.Printf("%s: scale %s to %d px, key %s\n", info.Kind, r.Key, r.Width, info.Key())
			cancel() // as SIGTERM would; this run finishes all the same
			return nil
		})
		body, err := task.Marshal(Resize{Key: "a.png", Width: 320})
		if err != nil {
			return err
		}
		// A task is one publish; client.Publish is more convenient.
		if _, err := js.Publish(ctx, "tasks.default.image.resize", body, jetstream.WithMsgID("a-320")); err != nil {
			return err
		}
		fmt.Println(w.Run(ctx))
		return nil
	})
	// Output:
	// image.resize: scale a.png to 320 px, key a-320:0
	// <nil>
}

// imageWorker is what both the worker and the processes of its tasks build.
func imageWorker(js jetstream.JetStream) (*worker.Worker, error) {
	w, err := worker.New(js, "image")
	if err != nil {
		return nil, err
	}
	worker.Handle(w, func(context.Context, Resize) error {
		go func() { panic("no such codec") }() // which nobody can recover
		select {}
	}, worker.Isolated(worker.Memory(512<<20)), worker.Retry(retry.Policy{Attempts: 1}))
	return w, nil
}

const exampleURL = "EXAMPLE_URL"

// imageMain is the program of ExampleIsolated in the process of one task.
func imageMain() int {
	js, err := broker.Connect(context.Background(), broker.Options{URL: os.Getenv(exampleURL)})
	if err != nil {
		return 1
	}
	defer js.Conn().Close()
	w, err := imageWorker(js)
	if err != nil {
		return 1
	}
	if err := w.Run(context.Background()); err != nil {
		return 1
	}
	return 0
}

// A task that would end its worker ends its own process, and says why in its dead
// letter. A main needs nothing for it but to connect and build its worker as always.
func ExampleIsolated() {
	onImageFleet(func(ctx context.Context, cancel func(), js jetstream.JetStream) error {
		_ = os.Setenv(exampleURL, js.Conn().ConnectedUrl())

		w, err := imageWorker(js)
		if err != nil {
			return err
		}
		body, err := task.Marshal(Resize{Key: "a.heic", Width: 320})
		if err != nil {
			return err
		}
		if _, err := js.Publish(ctx, "tasks.default.image.resize", body, jetstream.WithMsgID("a-320")); err != nil {
			return err
		}
		if _, err := js.Conn().Subscribe("dead.default.image.>", func(m *nats.Msg) {
			st, _ := task.ReadState(m.Subject, m.Header, task.Stored{})
			reason, _, _ := strings.Cut(st.Errors[0].Error, ";")
			fmt.Printf("%s is dead of %q: %s\n", st.ID, st.Reason, reason)
			cancel()
		}); err != nil {
			return err
		}
		fmt.Println(w.Run(ctx))
		return nil
	})
	// Output:
	// a-320 is dead of "failed": died: exit status 2 (panic: no such codec)
	// <nil>
}

func ExampleWorker_Use() {
	logged := func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, t *worker.Task) error {
			fmt.Printf("%s has %d bytes\n", t.Kind, len(t.Body))
			return next(ctx, t)
		}
	}
	var w worker.Worker // from worker.New
	w.Use(logged)       // around the handlers of all kinds

	_ = logged(func(context.Context, *worker.Task) error { return nil })(context.Background(),
		&worker.Task{Info: task.Info{Kind: "image.resize"}, Body: []byte{0x80}})
	// Output: image.resize has 1 bytes
}

// One line leaves a destination alone while it fails: here the host that a task
// names, with the defaults.
func ExampleBreaker() {
	onImageFleet(func(ctx context.Context, cancel func(), js jetstream.JetStream) error {
		w, err := worker.New(js, "image", worker.Logger(slog.New(slog.DiscardHandler)))
		if err != nil {
			return err
		}
		worker.Handle(w, func(_ context.Context, r Resize) error {
			if r.Key == "slow.example.com/a.png" {
				return retry.After(time.Hour, errors.New("429 Too Many Requests")) // holds for all tasks of the host
			}
			fmt.Println("fetch " + r.Key)
			cancel()
			return nil
		}, worker.Breaker(breaker.Policy{}, func(r Resize) string { host, _, _ := strings.Cut(r.Key, "/"); return host }))
		for _, key := range []string{"slow.example.com/a.png", "cdn.example.com/b.png"} {
			body, err := task.Marshal(Resize{Key: key})
			if err != nil {
				return err
			}
			if _, err := js.Publish(ctx, "tasks.default.image.resize", body); err != nil {
				return err
			}
		}
		fmt.Println(w.Run(ctx))
		for b, err := range circuit.List(context.Background(), js, "image") {
			fmt.Println(b.Destination, b.State, err)
		}
		return nil
	})
	// Output:
	// fetch cdn.example.com/b.png
	// <nil>
	// slow.example.com open <nil>
}

// One line holds all processes and services of the fleet to 40 tasks at once that use
// the main database.
func ExampleCap() {
	onImageFleet(func(ctx context.Context, cancel func(), js jetstream.JetStream) error {
		w, err := worker.New(js, "image", worker.Logger(slog.New(slog.DiscardHandler)))
		if err != nil {
			return err
		}
		worker.Handle(w, func(ctx context.Context, r Resize) error {
			fmt.Println("record the size of " + r.Key)
			for r, err := range permit.List(ctx, js) {
				fmt.Printf("%s: %d of %d permits are leased, %v\n", r.Resource, r.Held(), r.Cap(), err)
			}
			cancel()
			return nil
		}, worker.Cap("db:main", 40))
		body, err := task.Marshal(Resize{Key: "a.png", Width: 320})
		if err != nil {
			return err
		}
		if _, err := js.Publish(ctx, "tasks.default.image.resize", body); err != nil {
			return err
		}
		fmt.Println(w.Run(ctx))
		return nil
	})
	// Output:
	// record the size of a.png
	// db:main: 1 of 40 permits are leased, <nil>
	// <nil>
}

// One line says that a run takes as much of the process as two others: of 4 slots, no
// more than two are for it at once.
func ExampleWeight() {
	onImageFleet(func(ctx context.Context, cancel func(), js jetstream.JetStream) error {
		w, err := worker.New(js, "image", worker.Serve(worker.Class{Name: task.Default, Slots: 4}))
		if err != nil {
			return err
		}
		var running, most, done atomic.Int32
		worker.Handle(w, func(context.Context, Resize) error {
			for n := running.Add(1); ; {
				if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			time.Sleep(10 * time.Millisecond) // 2 GB of pixels
			running.Add(-1)
			if done.Add(1) == 8 {
				cancel()
			}
			return nil
		}, worker.Weight(2))
		for i := range 8 {
			body, err := task.Marshal(Resize{Key: fmt.Sprintf("%d.tiff", i), Width: 20000})
			if err != nil {
				return err
			}
			if _, err := js.Publish(ctx, "tasks.default.image.resize", body); err != nil {
				return err
			}
		}
		fmt.Println(w.Run(ctx))
		fmt.Println(done.Load(), "done, never more than two at once:", most.Load() <= 2)
		return nil
	})
	// Output:
	// <nil>
	// 8 done, never more than two at once: true
}

// One line holds the tasks of an account to a rate, over all processes.
func ExampleRateLimit() {
	onImageFleet(func(ctx context.Context, cancel func(), js jetstream.JetStream) error {
		w, err := worker.New(js, "image", worker.Logger(slog.New(slog.DiscardHandler)), worker.Serve(worker.Class{Name: task.Default, Slots: 1}))
		if err != nil {
			return err
		}
		worker.Handle(w, func(_ context.Context, r Resize) error {
			fmt.Println("scale " + r.Key)
			if r.Key == "globex/c.png" {
				cancel()
			}
			return nil
		}, worker.RateLimit(ratelimit.Policy{Limit: 1, Per: time.Hour}, func(r Resize) string { account, _, _ := strings.Cut(r.Key, "/"); return account }))
		for _, key := range []string{"acme/a.png", "acme/b.png", "globex/c.png"} {
			body, err := task.Marshal(Resize{Key: key})
			if err != nil {
				return err
			}
			if _, err := js.Publish(ctx, "tasks.default.image.resize", body); err != nil {
				return err
			}
		}
		fmt.Println(w.Run(ctx))
		for l, err := range quota.List(context.Background(), js, "image") {
			if l.Busy(time.Now()) {
				fmt.Println(l.Key, "has tasks in line", err)
			}
		}
		return nil
	})
	// Output:
	// scale acme/a.png
	// scale globex/c.png
	// <nil>
	// acme has tasks in line <nil>
}

// Tenants take turns in a class that the fleet divides into partitions. One that
// queues two tasks behind the two hundred of another does not wait for those.
func ExampleServe_tenants() {
	onImageFleet(func(ctx context.Context, cancel func(), js jetstream.JetStream) error {
		bulk, _ := streams.Default().Class(task.Bulk)
		for tenant, n := range map[string]int{"big": 200, "small": 2} {
			for range n {
				subject := task.Subject{Class: task.Bulk, Service: "image", Action: "resize", Tenant: tenant}
				if _, err := js.Publish(ctx, subject.String(), nil); err != nil { // package client does this
					return err
				}
			}
		}

		w, err := worker.New(js, "image", worker.Serve(worker.Class{Name: task.Bulk, Slots: 1, Partitions: bulk.Partitions}))
		if err != nil {
			return err
		}
		ran := map[string]int{} // by one slot
		worker.Handle(w, func(ctx context.Context, _ Resize) error {
			time.Sleep(2 * time.Millisecond) // its work
			info, _ := task.FromContext(ctx)
			if ran[info.Tenant]++; ran["small"] == 2 {
				cancel()
			}
			return nil
		})
		if err := w.Run(ctx); err != nil {
			fmt.Println(err)
		}
		fmt.Println("small is done while big has more than half to go:", ran["small"] == 2 && ran["big"] < 100)
		return nil
	})
	// Output: small is done while big has more than half to go: true
}
