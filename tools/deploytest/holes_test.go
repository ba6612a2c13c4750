package deploytest_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/shared/worker"
	"github.com/droverhq/drover/streams"
)

// What permissions cannot do: the broker sends an answer wherever the request says,
// with rights of its own. deploy/README.md says so; when the broker closes it, this
// fails, and the page can say something better.
func TestAnswersGoAnywhere(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	email, operator := g.as(t, "email"), g.as(t, "drover")
	publish(t, operator, job{Do: "moved"})
	answered, err := operator.js.Stream(t.Context(), "TASKS_URGENT")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "email's task is in webhook's lane: if the broker refuses that now, say so in deploy/README.md", func() bool {
		err := email.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.TASKS_DEFAULT.email", "tasks.urgent.webhook.deliver", []byte(`{"batch":1,"no_wait":true}`))
		if err != nil {
			t.Fatal(err)
		}
		_, err = answered.GetLastMsgForSubject(t.Context(), "tasks.urgent.webhook.deliver")
		return err == nil
	})
	// An answer that says that there is nothing has no body, as a request to delete.
	for request, stream := range map[string]string{
		"$JS.API.CONSUMER.MSG.NEXT.RETRY.urgent-email":      "KV_" + task.AlertsBucket,
		"$JS.API.DIRECT.GET.KV_FLEET.$KV.FLEET.pause.email": task.AuditStream,
	} {
		body := []byte(`{"batch":1,"no_wait":true}`)
		if strings.Contains(request, "DIRECT") {
			body = nil
		}
		if err := email.nc.PublishRequest(request, "$JS.API.STREAM.DELETE."+stream, body); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a service can have any stream deleted: if the broker refuses that now, say so in deploy/README.md", func() bool {
			_, err := operator.js.Stream(t.Context(), stream)
			return errors.Is(err, jetstream.ErrStreamNotFound)
		})
	}
	email.clean(t)
}

// A producer's requests are answered with a PubAck, which the API of a strict
// broker takes for no request.
func TestProducerCannotUseAnswers(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	producer, operator := g.as(t, "producer"), g.as(t, "drover")
	advisories, err := operator.nc.SubscribeSync("$JS.EVENT.ADVISORY.API")
	if err != nil {
		t.Fatal(err)
	}
	if err := operator.nc.FlushTimeout(limit); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.js.Publish(t.Context(), "dead.default.email.send.1", nil); err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{
		"STREAM.DELETE.DEAD", "STREAM.PURGE.DEAD", "STREAM.MSG.DELETE.DEAD", "STREAM.CREATE.X", "STREAM.UPDATE.DEAD",
		"STREAM.LEADER.STEPDOWN.DEAD", "STREAM.PEER.REMOVE.DEAD",
		"CONSUMER.DELETE.TASKS_DEFAULT.email", "CONSUMER.PAUSE.TASKS_DEFAULT.email", "CONSUMER.CREATE.DEAD.x",
		"CONSUMER.UNPIN.TASKS_DEFAULT.email", "CONSUMER.LEADER.STEPDOWN.TASKS_DEFAULT.email",
	} {
		if err := producer.nc.PublishRequest("tasks.default.email.send", "$JS.API."+request, nil); err != nil {
			t.Fatal(err)
		}
		for {
			m, err := advisories.NextMsg(limit)
			if err != nil {
				t.Errorf("%s: no word of it: %v", request, err)
				break
			}
			if !bytes.Contains(m.Data, []byte(`"subject":"$JS.API.`+request+`"`)) {
				continue // of what the operator asked
			}
			if !bytes.Contains(m.Data, []byte(`\"error\":`)) {
				t.Errorf("a PubAck was taken for a request of %s: %s", request, m.Data)
			}
			break
		}
	}
	if info, err := operator.js.Stream(t.Context(), task.DeadStream); err != nil || info.CachedInfo().State.Msgs != 1 {
		t.Errorf("DEAD after all that: %v, want its letter", err)
	}
	// It cannot name an acknowledgement as where the answer goes.
	if producer.refusal(t, func() error {
		return producer.nc.PublishRequest("tasks.default.email.send", "$JS.ACK.TASKS_DEFAULT.email.1.1.1.1.0", nil)
	}) == nil {
		t.Error("the reply to a publish may be an acknowledgement")
	}
}

// A publisher erases no stream of tasks by a header.
func TestProducerCannotRollUp(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	producer, operator := g.as(t, "producer"), g.as(t, "drover")
	publish(t, producer, job{Do: "stays"})
	for name, header := range map[string]nats.Header{
		"rollup of all":        {"Nats-Rollup": {"all"}},
		"rollup of a subject":  {"Nats-Rollup": {"sub"}},
		"schedule":             {task.HeaderSchedule: {"@every 1s"}, task.HeaderScheduleTarget: {"tasks.default.webhook.deliver"}},
		"removal of a timer":   {"Nats-Scheduler": {"tasks.default.email.send"}, "Nats-Schedule-Next": {"purge"}},
		"time to live":         {"Nats-TTL": {"1s"}},
		"counter":              {"Nats-Incr": {"1"}},
		"beginning of a batch": {"Nats-Batch-Id": {"x"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"}},
	} {
		_, err := producer.js.PublishMsg(t.Context(), &nats.Msg{Subject: "tasks.default.email.send", Header: header})
		if _, ok := errors.AsType[*jetstream.APIError](err); !ok {
			t.Errorf("publish with a %s = %v, want it refused", name, err)
		}
	}
	s, err := operator.js.Stream(t.Context(), "TASKS_DEFAULT")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("TASKS_DEFAULT holds %d tasks, want the 1 from before", n)
	}
}

// Whoever may store bodies may erase all of them: the object store needs the header
// that does it. deploy/README.md says so.
func TestBodiesCanBeRolledUp(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	archive, operator := g.as(t, "archive"), g.as(t, "drover")
	publish(t, archive, job{Do: "stays", Data: incompressible()})
	waitBodies(t, operator, 1)
	_, err := archive.js.PublishMsg(t.Context(), &nats.Msg{Subject: "$O.BODIES.C.x", Header: nats.Header{"Nats-Rollup": {"all"}}})
	if err != nil {
		t.Fatalf("rollup of BODIES = %v: if the broker refuses it now, say so in deploy/README.md", err)
	}
	waitBodies(t, operator, 0)
}

// What a service lacks it says at its start, and not after a timeout: its keys are
// older than its fleet file.
func TestCheckSaysWhatIsDenied(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	grown := fleetOfShops()
	grown.Services[0].Classes = append(grown.Services[0].Classes, task.Slow)
	if _, err := streams.Apply(t.Context(), g.as(t, "drover").js, grown); err != nil {
		t.Fatal(err)
	}
	email := g.as(t, "email")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := streams.Check(ctx, email.js, grown, "email")
	if !errors.Is(err, broker.ErrDenied) || ctx.Err() != nil ||
		!strings.Contains(err.Error(), "$JS.API.STREAM.INFO.TASKS_SLOW") || !strings.Contains(err.Error(), "drover keys") {
		t.Errorf("Check = %v, want ErrDenied that names the subject and says what to do", err)
	}
	w, err := worker.New(email.js, "email", worker.Serve(worker.Class{Name: task.Slow, Slots: 1}))
	if err != nil {
		t.Fatal(err)
	}
	worker.Handle(w, func(context.Context, job) error { return nil })
	if err := w.Run(ctx); !errors.Is(err, broker.ErrDenied) || !strings.Contains(err.Error(), "$JS.API.CONSUMER.INFO.TASKS_SLOW.email") {
		t.Errorf("Run = %v, want ErrDenied that names the subject", err)
	}
}

// A producer's publish that is denied is an error that says so, a large one too.
func TestDeniedPublish(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	for _, tt := range []struct {
		name, who string
		job       job
		says      string
	}{
		{"class", "shop", job{}, "publish to tasks.default.email.send"},
		{"large body", "producer", job{Data: incompressible()}, "publish to $O.BODIES.C."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := client.New(g.as(t, tt.who).js)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = c.Publish(t.Context(), tt.job)
			if !errors.Is(err, client.ErrDenied) || errors.Is(err, client.ErrUnknown) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Publish = %v, want ErrDenied with %q", err, tt.says)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %v to find out", took)
			}
		})
	}
}

// The header that erases a stream comes with the broker's timers, so services have
// it on RETRY. deploy/README.md says so.
func TestRetryCanBeRolledUp(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	email, webhook, operator := g.as(t, "email"), g.as(t, "webhook"), g.as(t, "drover")
	if _, err := webhook.js.Publish(t.Context(), "retry.ready.urgent.webhook.deliver.1", nil); err != nil {
		t.Fatal(err)
	}
	_, err := email.js.PublishMsg(t.Context(), &nats.Msg{Subject: "retry.ready.urgent.email.send.1", Header: nats.Header{"Nats-Rollup": {"all"}}})
	if err != nil {
		t.Fatalf("rollup of RETRY = %v: if the broker refuses it now, say so in deploy/README.md", err)
	}
	s, err := operator.js.Stream(t.Context(), task.RetryStream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetLastMsgForSubject(t.Context(), "retry.ready.urgent.webhook.deliver.1"); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("webhook's retry after email's rollup: %v, want it gone: say so in deploy/README.md", err)
	}
}

// A producer has no say in what its answer holds, only in where it goes.
func TestProducerCanMisplaceAnAnswer(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	shop, operator := g.as(t, "shop"), g.as(t, "drover")
	if err := shop.nc.PublishRequest("tasks.urgent.email.send", "tasks.urgent.webhook.deliver", nil); err != nil {
		t.Fatal(err)
	}
	s, err := operator.js.Stream(t.Context(), "TASKS_URGENT")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the answer is in webhook's lane: if the broker refuses that now, say so in deploy/README.md", func() bool {
		m, err := s.GetLastMsgForSubject(t.Context(), "tasks.urgent.webhook.deliver")
		return err == nil && task.Check(m.Data, task.Limits{}) != nil // it is dead-lettered undecoded
	})
}
