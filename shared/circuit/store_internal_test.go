package circuit

import (
	"errors"
	"testing"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/streams"
)

// Of two processes that saw the same record, one claims the probes.
func TestCompareAndSet(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	if _, err := streams.Apply(t.Context(), js, streams.Default()); err != nil {
		t.Fatal(err)
	}
	s := store{js}
	_, seq, err := s.get(t.Context(), "test", "a")
	if err != nil || seq != 0 {
		t.Fatalf("get() of nothing = %d, %v", seq, err)
	}
	for i, want := range []error{nil, errConflict} {
		r := breaker.Record{Destination: "a", State: breaker.HalfOpen, Owner: string(rune('a' + i))}
		if _, err := s.put(t.Context(), "test", r, seq); !errors.Is(err, want) {
			t.Errorf("put() by process %d = %v, want %v", i, err, want)
		}
	}
	if r, seq, err := s.get(t.Context(), "test", "a"); r.Owner != "a" || seq == 0 || err != nil {
		t.Errorf("get() = %+v, %d, %v, want the record of the first", r, seq, err)
	}
}
