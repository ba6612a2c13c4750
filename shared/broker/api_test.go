package broker_test

import (
	"encoding/json"
	"errors"
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

func TestDecodeAPI(t *testing.T) {
	t.Parallel()
	var got struct{ Success bool }
	if err := broker.DecodeAPI([]byte(`{"success": true}`), &got); err != nil || !got.Success {
		t.Errorf("DecodeAPI of an answer = %+v, %v, want success", got, err)
	}
	err := broker.DecodeAPI([]byte(`{"success": true, "error": {"code": 404, "err_code": 10059, "description": "stream not found"}}`), &got)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("DecodeAPI of a refusal = %v, want %v", err, jetstream.ErrStreamNotFound)
	}
	if _, ok := errors.AsType[*json.SyntaxError](broker.DecodeAPI([]byte("-ERR"), &got)); !ok {
		t.Error("DecodeAPI of no JSON = nil, want an error")
	}
}
