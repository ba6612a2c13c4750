package broker

import (
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// API is the subject of a function of JetStream's API, such as "STREAM.INFO.DEAD",
// under the domain or prefix that js was made with. "" is what all of them begin
// with.
func API(js jetstream.JetStream, function string) string {
	switch o := js.Options(); {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API." + function
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "." + function
	}
	return jetstream.DefaultAPIPrefix + function
}
