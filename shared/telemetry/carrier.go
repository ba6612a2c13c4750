package telemetry

import (
	"strings"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
)

// Carrier reads and writes trace context in the headers of a NATS message. NATS
// headers are case-sensitive and W3C names are lower case: Set writes names as
// they are given (propagators give them in lower case), and Get also finds what
// another client wrote in another case. propagation.HeaderCarrier would write
// "Traceparent", which clients of other languages do not look for.
//
// A nil Carrier can be read. It is as safe for concurrent use as the map is.
type Carrier nats.Header

var _ propagation.TextMapCarrier = Carrier{}

// Get returns the first value of key: the exact name, or else any name that
// differs from it only in case.
func (c Carrier) Get(key string) string {
	if v := c[key]; len(v) > 0 {
		return v[0]
	}
	for k, v := range c {
		if len(k) == len(key) && len(v) > 0 && strings.EqualFold(k, key) {
			return v[0]
		}
	}
	return ""
}

// Set replaces all values of key, in any case, by value.
func (c Carrier) Set(key, value string) {
	for k := range c {
		if len(k) == len(key) && k != key && strings.EqualFold(k, key) {
			delete(c, k)
		}
	}
	c[key] = []string{value}
}

// Keys returns the names of all headers, in no order.
func (c Carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
