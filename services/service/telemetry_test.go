package service_test

import (
	"context"
	"strings"
	"testing"

	"github.com/droverhq/drover/services/service"
)

// What is sent where, as the OTEL_ variables say. Not parallel: they are the
// process's.
func TestTelemetryEnvironment(t *testing.T) {
	url, _ := testBroker(t)
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tests := []struct {
		name            string
		env             map[string]string // the collector's address for "*"
		code            int
		traces, metrics bool // sent
		scraped         bool // on /metrics
	}{
		{"nothing set", nil, 0, false, false, true},
		{"endpoint", map[string]string{endpoint: "*"}, 0, true, true, true},
		{"endpoint of traces", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "*/v1/traces"}, 0, true, false, true},
		{"endpoint of metrics", map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "*/v1/metrics"}, 0, false, true, true},
		{"exporter none", map[string]string{endpoint: "*", "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "prometheus"}, 0, false, false, true},
		{"sampler", map[string]string{endpoint: "*", "OTEL_TRACES_SAMPLER": "always_off"}, 0, false, true, true},
		{"disabled", map[string]string{endpoint: "*", "OTEL_SDK_DISABLED": "true"}, 0, false, false, false},
		{"unknown exporter", map[string]string{"OTEL_TRACES_EXPORTER": "pigeon"}, 78, false, false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			otlp, _ := collect(t)
			for k, v := range test.env {
				t.Setenv(k, strings.ReplaceAll(v, "*", otlp.url))
			}
			log := newJournal(t)
			var scraped string
			code := service.Exec(t.Context(), service.Service{
				Name: "email",
				Run: func(ctx context.Context, env *service.Env) error {
					_, span := env.TracerProvider.Tracer("test").Start(ctx, "test.span")
					span.End()
					counter, err := env.MeterProvider.Meter("test").Int64Counter("test.counter")
					if err != nil {
						return err
					}
					counter.Add(ctx, 1)
					_, scraped = log.admin()("/metrics")
					return nil
				},
			}, []string{"--nats", url, "--admin", "127.0.0.1:0", "--log-format", "json"}, log, log)
			if code != test.code {
				t.Errorf("Exec() = %d, want %d; it wrote:\n%s", code, test.code, log)
			}
			if got := otlp.has("/v1/traces", "test.span"); got != test.traces {
				t.Errorf("span was sent: %v, want %v", got, test.traces)
			}
			if got := otlp.has("/v1/metrics", "test.counter"); got != test.metrics {
				t.Errorf("metric was sent: %v, want %v", got, test.metrics)
			}
			if got := strings.Contains(scraped, "test_counter_total 1"); got != test.scraped {
				t.Errorf("metric is on /metrics: %v, want %v:\n%s", got, test.scraped, scraped)
			}
		})
	}
}
