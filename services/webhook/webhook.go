// Package webhook delivers events to other people's servers: the kind
// webhook.deliver, signed as Standard Webhooks prescribes (standardwebhooks.com).
//
// # Semantics
//
// One task is one POST of a JSON body to one URL. Every attempt sends the same
// body under the same webhook-id, the task's id and generation, so that the
// receiver can drop what it has seen; only webhook-timestamp, and with it the
// signature, changes. A redrive has a new webhook-id.
//
// # Destinations
//
// URLs come from outside, so a delivery may reach only what the whole internet
// can reach. The address is judged when the connection is made, after the name
// was resolved, so that no name can change its mind in between. Redirects are not
// followed, and proxies named in the environment are not used.
//
// # Breakers
//
// A host that fails is left alone for a while by all processes, as
// worker.Breaker says.
//
// # Concurrency
//
// A [Deliverer] is safe for concurrent use.
package webhook

import (
	"net/url"
	"strings"

	"github.com/droverhq/drover/shared/task"
)

// Deliver asks for one event to be posted to URL.
type Deliver struct {
	URL     string            `msgpack:"url"`               // https, without user and password
	Event   string            `msgpack:"event,omitempty"`   // such as "invoice.paid"; it decides the shape of the body
	Payload any               `msgpack:"payload"`           // becomes JSON
	Secret  string            `msgpack:"secret,omitempty"`  // name of the secret to sign with; empty means "default"
	Headers map[string]string `msgpack:"headers,omitempty"` // sent as well; at most 32, none that this package or HTTP sets
}

// Kind is webhook.deliver.
func (Deliver) Kind() string { return "webhook.deliver" }

// Class is [task.Default].
func (Deliver) Class() task.Class { return task.Default }

// Host is the destination for the breaker: host and port of the URL, in lower case.
// It is "" for what is no URL, which fails without a call.
func (d Deliver) Host() string {
	u, err := url.Parse(d.URL)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}
