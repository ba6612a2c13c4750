package streams_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// A process that died is gone from FLEET when the time of its key is over, and a
// watcher hears of it.
func TestPresenceExpires(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		apply(t, js, small())
		kv, err := js.KeyValue(t.Context(), task.FleetBucket)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"email.dies", "email.stays"} {
			opts := []jetstream.KVCreateOpt{jetstream.KeyTTL(10 * time.Second)}
			if key == "email.stays" {
				opts = nil
			}
			if _, err := kv.Create(t.Context(), key, []byte("here"), opts...); err != nil {
				t.Fatalf("create %s: %v", key, err)
			}
		}
		watch, err := kv.Watch(t.Context(), "email.dies", jetstream.UpdatesOnly())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = watch.Stop() }()
		time.Sleep(15 * time.Second)
		if _, err := kv.Get(t.Context(), "email.dies"); !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Errorf("Get(email.dies) after its time = %v, want ErrKeyNotFound", err)
		}
		if _, err := kv.Get(t.Context(), "email.stays"); err != nil {
			t.Errorf("Get(email.stays) = %v", err)
		}
		select {
		case e := <-watch.Updates():
			if e == nil || e.Key() != "email.dies" || e.Operation() == jetstream.KeyValuePut {
				t.Errorf("the watcher heard %v, want the end of email.dies", e)
			}
		default:
			t.Error("the watcher heard nothing of the end of email.dies")
		}
	})
}
