package broker

import (
	"encoding/json"
	"fmt"
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

// DecodeAPI decodes the answer of a function of JetStream's API into out. An answer
// that is a refusal is returned as a *jetstream.APIError.
func DecodeAPI(answer []byte, out any) error {
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer, &failed); err != nil {
		return fmt.Errorf("the broker's answer: %w", err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	return json.Unmarshal(answer, out)
}
