package deadletter

import (
	"errors"
	"maps"
	"slices"
	"sync"
)

// trouble is why the work does not go on, by the part of it: one that recovers
// must not hide that another has not. The zero value is no trouble.
type trouble struct {
	mu sync.Mutex
	of map[string]error
}

// set says how a part is doing, and reports whether that is news: the first error,
// or the end of them.
func (t *trouble) set(of string, err error) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, was := t.of[of]
	if err == nil {
		delete(t.of, of)
		return was
	}
	if t.of == nil {
		t.of = map[string]error{}
	}
	t.of[of] = err
	return !was
}

// get returns all troubles, and nil when there is none.
func (t *trouble) get() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, of := range slices.Sorted(maps.Keys(t.of)) {
		errs = append(errs, t.of[of])
	}
	return errors.Join(errs...)
}
