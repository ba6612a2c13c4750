//go:build e2e

package e2e_test

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/droverhq/drover/services/webhook"
	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/dev"
)

// TestTraces sends the spans of a shop, of the webhook service and of the drover
// command to a Jaeger, and looks there for what happened.
func TestTraces(t *testing.T) {
	t.Parallel()
	j := startJaeger(t)
	f := newFleet(t, filepath.Join("testdata", "fleet.yaml"))
	f.env = append(f.env, j.env()...)
	p := f.service("webhook")
	// One after the other: they tell one receiver what to answer.
	t.Run("a task that dies and is redriven", func(t *testing.T) { whole(t, j, f) })
	t.Run("a task of a publisher without traces", func(t *testing.T) { raw(t, j, f) })
	if out := p.output(); strings.Contains(out, "lost") {
		t.Errorf("the service complains:\n%s", out)
	}
}

func whole(t *testing.T, j *jaeger, f *fleet) {
	f.hooks.Fail("/orders", dev.Failure{Status: http.StatusBadGateway})
	r := checkout(t, j, f, webhook.Deliver{URL: f.hooks.URL() + "/orders", Event: "order.paid", Payload: 17})

	first := j.search(t, "webhook", r.ID, 1, 8)
	if len(first) != 1 {
		t.Fatalf("a search for the task finds %d traces, want 1", len(first))
	}
	want := `
shop: POST /checkout
  shop: publish webhook.deliver
    webhook: process webhook.deliver, attempt 1, generation 0, verdict moved, reason retry, type _OTHER
      webhook: retry webhook.deliver, reason retry
    webhook: process webhook.deliver, attempt 2, generation 0, verdict moved, reason retry, type _OTHER, follows attempt 1
      webhook: retry webhook.deliver, reason retry
    webhook: process webhook.deliver, attempt 3, generation 0, verdict dead, reason failed, type _OTHER, follows attempt 2
      webhook: dead webhook.deliver, reason failed
`
	if d := cmp.Diff(want, first[0].tree()); d != "" {
		t.Errorf("trace until the death (-want +got):\n%s", d)
	}
	alone, err := get[[]trace](j, "/api/traces/"+first[0].TraceID, nil)
	if err != nil {
		t.Fatal(err)
	}
	sortTraces(alone)
	if len(alone) != 1 || alone[0].tree() != first[0].tree() {
		t.Errorf("the trace by its id is %v, want the one that the search found", alone)
	}
	checkTags(t, first[0], r.ID)

	f.hooks.Mend("/orders")
	for range 3 {
		next(t, f.calls) // those that were answered 502
	}
	execute(t, f.env, "", filepath.Join(own, "drover"), "dead", "redrive", r.ID)
	if c := next(t, f.calls); c.Status != http.StatusOK || c.ID != r.ID+":1" {
		t.Errorf("after the redrive the receiver got %+v, want 200 for generation 1 of %s", c, r.ID)
	}

	both := j.search(t, "webhook", r.ID, 2, 10)
	if len(both) != 2 {
		t.Fatalf("a search for the task after its redrive finds %d traces, want 2", len(both))
	}
	if d := cmp.Diff(first[0].tree(), both[0].tree()); d != "" {
		t.Errorf("the first trace has changed (-before +after):\n%s", d)
	}
	want = `
drover: redrive webhook.deliver, generation 1, reason failed, follows publish webhook.deliver of another trace, follows attempt 3 of another trace
  webhook: process webhook.deliver, attempt 1, generation 1, verdict done
`
	if d := cmp.Diff(want, both[1].tree(both[0])); d != "" {
		t.Errorf("trace of the redrive (-want +got):\n%s", d)
	}
	checkTags(t, both[1], r.ID)

	services := eventually(t, j, "/api/services", nil, func(names []string) bool { return len(names) >= 3 })
	slices.Sort(services)
	if d := cmp.Diff([]string{"drover", "shop", "webhook"}, services); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}
}

func raw(t *testing.T, j *jaeger, f *fleet) {
	f.hooks.Fail("/raw", dev.Failure{Status: http.StatusBadGateway})
	body, err := task.Marshal(map[string]any{"url": f.hooks.URL() + "/raw", "payload": 17})
	if err != nil {
		t.Fatal(err)
	}
	require(t, "nats")
	execute(t, f.env, string(body), filepath.Join(own, "nats"), "pub", "--jetstream", "--force-stdin", "--no-templates",
		"-H", "Nats-Msg-Id:raw-17", "tasks.default.webhook.deliver")

	found := j.search(t, "webhook", "raw-17", 1, 6)
	if len(found) != 1 {
		t.Fatalf("a search for the task finds %d traces, want 1", len(found))
	}
	want := `
webhook: process webhook.deliver, attempt 1, generation 0, verdict moved, reason retry, type _OTHER
  webhook: retry webhook.deliver, reason retry
  webhook: process webhook.deliver, attempt 2, generation 0, verdict moved, reason retry, type _OTHER
    webhook: retry webhook.deliver, reason retry
  webhook: process webhook.deliver, attempt 3, generation 0, verdict dead, reason failed, type _OTHER, follows attempt 2
    webhook: dead webhook.deliver, reason failed
`
	if d := cmp.Diff(want, found[0].tree()); d != "" {
		t.Errorf("trace (-want +got):\n%s", d)
	}
	checkTags(t, found[0], "raw-17")
}

// checkout publishes a task inside a span of the shop's own.
func checkout(t *testing.T, j *jaeger, f *fleet, args task.Args) client.Receipt {
	t.Helper()
	exporter, err := otlptracehttp.New(alive, otlptracehttp.WithEndpointURL(j.otlp+"/v1/traces"))
	if err != nil {
		t.Fatal(err)
	}
	tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "shop"))))
	c, err := client.New(f.js, client.TracerProvider(tp))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(alive, patience)
	defer cancel()
	pctx, span := tp.Tracer("shop").Start(ctx, "POST /checkout")
	r, err := c.Publish(pctx, args)
	if err != nil {
		t.Fatal(err)
	}
	span.End()
	if err := tp.Shutdown(ctx); err != nil {
		t.Fatalf("send the spans of the shop: %v", err)
	}
	return r
}

// checkTags checks what every span of a task says of it.
func checkTags(t *testing.T, tr trace, id string) {
	t.Helper()
	for _, s := range tr.Spans {
		verb, kind, ofTask := strings.Cut(s.OperationName, " ")
		if !ofTask || kind != "webhook.deliver" {
			continue
		}
		want := map[string]string{"task.id": id, "messaging.system": "nats", "span.kind": "producer"}
		switch verb {
		case "process":
			want["span.kind"] = "consumer"
			fallthrough
		case "publish", "redrive":
			want["task.kind"], want["task.class"] = kind, "default"
		}
		if s.tag("error.type") != "" {
			want["error"] = "true"
		}
		for key, v := range want {
			if got := s.tag(key); got != v {
				t.Errorf("span %q (attempt %q): tag %s = %q, want %q", s.OperationName, s.tag("task.attempt"), key, got, v)
			}
		}
	}
}
