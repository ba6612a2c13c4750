module github.com/droverhq/drover/tools

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0
	github.com/droverhq/drover v0.0.0
	github.com/droverhq/drover/services v0.0.0
	github.com/emersion/go-smtp v0.25.1
	github.com/google/go-cmp v0.7.0
	github.com/nats-io/nats-server/v2 v2.15.2
	github.com/nats-io/nats.go v1.55.0
	github.com/rogpeppe/go-internal v1.16.0
	go.opentelemetry.io/contrib/exporters/autoexport v0.72.0
	go.opentelemetry.io/otel v1.47.0
	go.opentelemetry.io/otel/sdk v1.47.0
	go.opentelemetry.io/otel/sdk/metric v1.47.0
	go.opentelemetry.io/otel/trace v1.47.0
	golang.org/x/term v0.47.0
)

replace (
	github.com/droverhq/drover => ../
	github.com/droverhq/drover/services => ../services
)
