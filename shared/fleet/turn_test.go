package fleet_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// Of many that want the turn of a service one gets it, and the others learn who.
func TestTakeTurn(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	topology(t, js)
	for range 3 {
		var mu sync.Mutex
		var got []*fleet.Turn
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				turn, err := fleet.TakeTurn(t.Context(), js, "email", string(rune('A'+i)), time.Minute)
				if err != nil && !errors.Is(err, fleet.ErrTaken) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					got = append(got, turn)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(got) != 1 {
			t.Fatalf("%d have the turn, want one", len(got))
		}
		if err := got[0].GiveBack(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTurn(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js)
		take := func(service, instance string) *fleet.Turn {
			t.Helper()
			turn, err := fleet.TakeTurn(t.Context(), js, service, instance, time.Minute)
			if err != nil {
				t.Fatalf("TakeTurn(%s, %s) = %v", service, instance, err)
			}
			return turn
		}
		taken := func(by string) {
			t.Helper()
			_, err := fleet.TakeTurn(t.Context(), js, "email", "X", time.Minute)
			if !errors.Is(err, fleet.ErrTaken) || !strings.Contains(err.Error(), by) {
				t.Errorf("TakeTurn() = %v, want that %s has it", err, by)
			}
		}
		a := take("email", "A")
		taken("A")
		take("pdf", "P") // another service is its own matter

		if err := a.GiveBack(t.Context(), 3*time.Second); err != nil {
			t.Fatal(err)
		}
		taken("A") // while its successor starts
		time.Sleep(5 * time.Second)
		b := take("email", "B")
		if err := a.GiveBack(t.Context(), 0); err != nil {
			t.Errorf("GiveBack of what was lost = %v, want nil", err)
		}
		taken("B")
		if err := b.GiveBack(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		dead := take("email", "C") // and is killed
		time.Sleep(50 * time.Second)
		taken("C")
		time.Sleep(12 * time.Second)
		take("email", "D")
		if err := dead.GiveBack(t.Context(), time.Second); err != nil {
			t.Errorf("GiveBack of what was lost = %v, want nil", err)
		}
		taken("D")
		time.Sleep(5 * time.Minute)
		if n := messages(t, js); n != 0 {
			t.Errorf("the bucket still holds %d messages", n)
		}
	})
}

// A turn that the broker did not remove when its time was over is nobody's.
func TestTurnBroughtBack(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, js jetstream.JetStream) {
		topology(t, js)
		if _, err := js.Publish(t.Context(), "$KV."+task.FleetBucket+".recycle.email",
			fmt.Appendf(nil, `{"instance":"A","since":%q}`, time.Now().UTC().Format(time.RFC3339Nano))); err != nil { // without a time to live
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := fleet.TakeTurn(t.Context(), js, "email", "B", time.Minute); !errors.Is(err, fleet.ErrTaken) {
			t.Errorf("TakeTurn() = %v, want %v", err, fleet.ErrTaken)
		}
		time.Sleep(time.Minute)
		if _, err := fleet.TakeTurn(t.Context(), js, "email", "B", time.Minute); err != nil {
			t.Errorf("TakeTurn() = %v, want the turn of A to be over", err)
		}
	})
}
