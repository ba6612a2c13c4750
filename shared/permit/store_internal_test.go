package permit

import (
	"errors"
	"testing"

	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/semaphore"
	"github.com/droverhq/drover/streams"
)

// Of two processes that saw the same record, one writes the next.
func TestCompareAndSet(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t)
	if _, err := streams.Apply(t.Context(), js, streams.Default()); err != nil {
		t.Fatal(err)
	}
	s := store{js}
	_, seq, err := s.get(t.Context(), "a")
	if err != nil || seq != 0 {
		t.Fatalf("get() of nothing = %d, %v", seq, err)
	}
	for i, want := range []error{nil, errConflict} {
		if err := s.put(t.Context(), semaphore.Record{Resource: "a", Turn: uint64(i + 1)}, seq); !errors.Is(err, want) {
			t.Errorf("put() by process %d = %v, want %v", i, err, want)
		}
	}
	if r, seq, err := s.get(t.Context(), "a"); r.Turn != 1 || seq == 0 || err != nil {
		t.Errorf("get() = %+v, %d, %v, want the record of the first", r, seq, err)
	}
}
