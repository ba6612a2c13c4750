//go:build !race

// The race detector keeps memory of its own, several times what is used.

package worker

import (
	"runtime"
	"testing"
	"time"
)

// Memory that is only not returned yet does not count, and the runtime is not made
// to return it with every look.
func TestMemoryIsNotGarbage(t *testing.T) {
	var m memory
	base := resident()
	if base < 1<<20 {
		t.Fatalf("resident() = %d, want some MiB", base)
	}
	touch := func() []byte {
		b := make([]byte, 64<<20)
		for i := 0; i < len(b); i += 4 << 10 {
			b[i] = 1
		}
		return b
	}
	mark := base + 32<<20
	now := time.Now()
	if used := m.above(mark, now); used != 0 {
		t.Errorf("above(%d) = %d with %d in use, want 0", mark, used, base)
	}
	_ = touch()[0]
	if used := resident(); used <= mark {
		t.Fatalf("resident() = %d after 64 MiB were touched, want more than %d", used, mark)
	}
	if used := m.above(mark, now); used != 0 {
		t.Errorf("above(%d) = %d with garbage alone, want 0", mark, used)
	}
	kept := touch()
	if used := m.above(mark, now.Add(time.Second)); used != 0 {
		t.Errorf("above(%d) = %d a second after the last look at garbage, want 0 for a minute", mark, used)
	}
	if used := m.above(mark, now.Add(freeEvery)); used <= mark {
		t.Errorf("above(%d) = %d with 64 MiB in use, want that", mark, used)
	}
	runtime.KeepAlive(kept)
}
