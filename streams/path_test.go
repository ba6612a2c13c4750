package streams_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// charge is the task of this story.
type charge struct {
	Invoice string `msgpack:"invoice"`
	Cents   int    `msgpack:"cents"`
}

func (charge) Kind() string { return "billing.charge" }

// The whole path of one task, as one story: it is published, fails twice while
// the bank is down, waits on broker timers, dies, is read, and redriven once the
// bank is back, by three people at once.
func TestPath(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		ctx := t.Context()
		recorder := tracetest.NewSpanRecorder()
		traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))

		// The fleet file says that there is a service billing, of class urgent.
		fleet := streams.Default()
		fleet.Services = []streams.Service{{Name: "billing", Classes: []task.Class{task.Urgent}}}
		if _, err := streams.Apply(ctx, js, fleet); err != nil {
			t.Fatal(err)
		}

		// Its worker charges at a bank that is down.
		bankIsUp := false
		type seen struct {
			charge
			Key     string
			Attempt int
		}
		var charged []seen
		w, err := worker.New(js, "billing", worker.TracerProvider(traces),
			worker.Serve(worker.Class{Name: task.Urgent, TimeLimit: 15 * time.Second, Retry: retry.Policy{Attempts: 2}}))
		if err != nil {
			t.Fatal(err)
		}
		worker.Handle(w, func(ctx context.Context, c charge) error {
			info, _ := task.FromContext(ctx)
			charged = append(charged, seen{c, info.Key(), info.Attempt})
			if !bankIsUp {
				return errors.New("the bank does not answer")
			}
			return nil
		})
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- w.Run(running) }()

		// A producer publishes, and the broker has it.
		producer, err := client.New(js, client.TracerProvider(traces))
		if err != nil {
			t.Fatal(err)
		}
		receipt, err := producer.Publish(ctx, charge{"2026-117", 4200}, client.Class(task.Urgent), client.Tenant("acme"), client.ID("117"))
		if err != nil {
			t.Fatal(err)
		}
		if receipt.Stream != "TASKS_URGENT" || receipt.ID != "117" {
			t.Errorf("receipt %+v, want task 117 in TASKS_URGENT", receipt)
		}

		// Both attempts fail, the second after a backoff, and then it is dead.
		time.Sleep(time.Hour)
		letter, err := deadletter.Get(ctx, js, "117")
		if err != nil {
			t.Fatal(err)
		}
		if letter.Reason != task.Failed || letter.Attempt != 2 || len(letter.Errors) != 2 || letter.Subject.Tenant != "acme" {
			t.Errorf("the dead letter says %+v, want failed after 2 attempts of tenant acme", letter.State)
		}
		args, err := letter.Arguments(ctx, js)
		if err != nil {
			t.Fatal(err)
		}
		if args["invoice"] != "2026-117" {
			t.Errorf("its arguments are %v", args)
		}

		// The bank is back, and three people redrive the same letter.
		bankIsUp = true
		for range 3 {
			_, err := deadletter.Redrive(ctx, js, letter, deadletter.TracerProvider(traces))
			if err != nil && !errors.Is(err, deadletter.ErrNotFound) {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		want := []seen{
			{charge{"2026-117", 4200}, "117:0", 0},
			{charge{"2026-117", 4200}, "117:0", 1},
			{charge{"2026-117", 4200}, "117:1", 0}, // the next generation, once
		}
		if diff := cmp.Diff(want, charged, cmp.AllowUnexported(seen{})); diff != "" {
			t.Errorf("the handler saw (-want +got):\n%s", diff)
		}

		// Nothing is left anywhere.
		lanes, err := streams.Lanes(ctx, js, fleet)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lanes {
			if l.Depth != 0 || l.InFlight != 0 || l.Waiting != 0 || l.Dead != 0 {
				t.Errorf("left over: %+v", l)
			}
		}

		// One trace has publish, both attempts, the retry and the death; another,
		// which links to it, the redrive and its attempt.
		byTrace := map[trace.TraceID][]string{}
		var order []trace.TraceID
		for _, s := range recorder.Ended() {
			id := s.SpanContext().TraceID()
			if byTrace[id] == nil {
				order = append(order, id)
			}
			byTrace[id] = append(byTrace[id], s.Name())
		}
		var names [][]string
		for _, id := range order {
			slices.Sort(byTrace[id])
			names = append(names, byTrace[id])
		}
		wantNames := [][]string{
			{"dead billing.charge", "process billing.charge", "process billing.charge", "publish billing.charge", "retry billing.charge"},
			{"process billing.charge", "redrive billing.charge"},
		}
		if diff := cmp.Diff(wantNames, names[:min(2, len(names))]); diff != "" {
			t.Errorf("spans by trace (-want +got):\n%s", diff)
		}
		for _, s := range recorder.Ended() {
			if s.Name() == "redrive billing.charge" && s.SpanContext().TraceID() == order[1] {
				if links := s.Links(); len(links) == 0 || links[0].SpanContext.TraceID() != order[0] {
					t.Errorf("the redrive links to %v, want the trace of the first generation", links)
				}
			}
		}
	})
}
