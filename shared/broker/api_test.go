package broker_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/shared/natstest"
)

func TestAPI(t *testing.T) {
	t.Parallel()
	nc := natstest.JetStream(t).Conn()
	made := func(js jetstream.JetStream, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return broker.API(js, "INFO")
	}
	got := []string{
		made(jetstream.New(nc)),
		made(jetstream.NewWithDomain(nc, "hub")),
		made(jetstream.NewWithAPIPrefix(nc, "other")),
		made(jetstream.NewWithAPIPrefix(nc, "other.")),
	}
	if d := cmp.Diff([]string{"$JS.API.INFO", "$JS.hub.API.INFO", "other.INFO", "other.INFO"}, got); d != "" {
		t.Errorf("API(js, INFO) (-want +got):\n%s", d)
	}
}
