//go:build e2e

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"
)

// jaeger is an all-in-one Jaeger that keeps traces in memory.
type jaeger struct {
	otlp  string // where spans are sent to, over HTTP
	query string // where they are asked for
}

// startJaeger starts Jaeger on ports that the system picks. The one of the query
// service for gRPC has another name of the same host, because Jaeger takes equal
// addresses for one port.
func startJaeger(tb testing.TB) *jaeger {
	tb.Helper()
	p := start(tb, []string{"PATH=" + os.Getenv("PATH")}, require(tb, "jaeger"),
		"--memory.max-traces=100000",
		"--admin.http.host-port=127.0.0.1:0",
		"--collector.otlp.grpc.host-port=127.0.0.1:0",
		"--collector.otlp.http.host-port=127.0.0.1:0",
		"--collector.grpc-server.host-port=127.0.0.1:0",
		"--collector.http-server.host-port=127.0.0.1:0",
		"--query.http-server.host-port=127.0.0.1:0",
		"--query.grpc-server.host-port=localhost:0",
		"--query.enable-tracing=false", // its own spans would go to localhost:4317
	)
	var receiver struct{ Endpoint string }
	line(tb, p.wait(`"Starting HTTP server","endpoint"`), &receiver)
	var server struct {
		Addr string `json:"http_addr"`
	}
	line(tb, p.wait(`"Query server started"`), &server)
	p.wait(`"status":"ready"`)
	return &jaeger{otlp: "http://" + receiver.Endpoint, query: "http://" + server.Addr}
}

// line reads one line of Jaeger's log.
func line(tb testing.TB, text string, into any) {
	tb.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		tb.Fatalf("log of Jaeger: %v: %s", err, text)
	}
}

// env makes a program send its spans here, and soon.
func (j *jaeger) env() []string {
	return []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + j.otlp + "/v1/traces", soon}
}

// soon is how often a program sends its spans. What a program that is killed has
// not sent is not there.
const soon = "OTEL_BSP_SCHEDULE_DELAY=50" // ms

// get asks Jaeger's query API, the one that its own pages use.
func get[T any](j *jaeger, path string, query url.Values) (T, error) {
	var answer struct {
		Data   T
		Errors []struct{ Msg string }
	}
	ctx, cancel := context.WithTimeout(alive, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.query+path+"?"+query.Encode(), nil)
	if err != nil {
		return answer.Data, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer.Data, err
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = resp.Body.Close()
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err == nil && len(answer.Errors) > 0 {
		err = fmt.Errorf("%+v", answer.Errors)
	}
	if err != nil {
		return answer.Data, fmt.Errorf("ask Jaeger for %s: %w", path, err)
	}
	return answer.Data, nil
}

// eventually asks again until what it gets is complete: Jaeger tells nobody when
// spans arrive. What there is after a while is returned as it is.
func eventually[T any](tb testing.TB, j *jaeger, path string, query url.Values, complete func(T) bool) T {
	tb.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		data, err := get[T](j, path, query)
		if err == nil && complete(data) {
			return data
		}
		if time.Now().After(end) {
			if err != nil {
				tb.Fatal(err)
			}
			return data
		}
	}
}

// search finds traces as people do: by the id of a task, which is on each of its
// spans. It waits for so many traces with so many spans together.
func (j *jaeger) search(tb testing.TB, service, taskID string, traces, spans int) []trace {
	tb.Helper()
	query := url.Values{"service": {service}, "tags": {fmt.Sprintf(`{"task.id":%q}`, taskID)}, "lookback": {"1h"}, "limit": {"20"}}
	found := eventually(tb, j, "/api/traces", query, func(found []trace) bool {
		n := 0
		for _, t := range found {
			n += len(t.Spans)
		}
		return len(found) >= traces && n >= spans
	})
	sortTraces(found)
	return found
}
