package streams

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
)

// Error codes of the broker that an operator can do something about.
const (
	codeNoResources     jetstream.ErrorCode = 10023
	codeNoStorage       jetstream.ErrorCode = 10047
	codeSubjectsOverlap jetstream.ErrorCode = 10065
	codeNoCluster       jetstream.ErrorCode = 10074
	codeNoPeers         jetstream.ErrorCode = 10005
	codeFilterTaken     jetstream.ErrorCode = 10100
)

// hint is what to do about an error of the broker, with a separator in front, or
// "" when there is nothing better to say than the error itself.
func hint(err error) string {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return ""
	}
	switch api.ErrorCode {
	case codeNoResources, codeNoStorage:
		return ": every max_bytes is reserved at once: lower them in the fleet file, or give the broker more storage"
	case codeSubjectsOverlap:
		return ": a stream that is not Drover's takes these subjects: find it with `nats stream ls`"
	case codeNoCluster, codeNoPeers:
		return ": the fleet file asks for more replicas than the broker has nodes"
	case codeFilterTaken:
		return ": another consumer takes these tasks: find it with `nats consumer ls`"
	}
	return ""
}

// checkBroker makes sure that message schedules work: before
// [broker.MinVersion] they are missing, or lose tasks.
func checkBroker(js jetstream.JetStream) error {
	if v := js.Conn().ConnectedServerVersion(); broker.Older(v, broker.MinVersion) {
		return fmt.Errorf("%w: it is %s, and retries need %s or newer: upgrade nats-server", broker.ErrTooOld, v, broker.MinVersion)
	}
	return nil
}

func messages(n uint64) string {
	if n == 1 {
		return "1 task"
	}
	return fmt.Sprintf("%d tasks", n)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
