// Package e2e has no code, only tests that need more than Go: the fleet's own
// binaries against a real Jaeger and the nats command, over loopback.
//
//	.ci/prepare jaeger nats && go test -tags e2e ./tools/e2e
//
// The programs are those in .bin, or those that DROVER_JAEGER and DROVER_NATS name.
// One that is missing fails the tests that need it.
package e2e
