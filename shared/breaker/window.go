package breaker

import "time"

// window counts calls over a rolling time, a tenth of it in each slot.
type window struct {
	slots [10]struct{ failures, successes int }
	width time.Duration // which it was counted with
	at    int64         // number of the newest slot, since 1970
}

// forward makes room for now and forgets what is older than width.
func (w *window) forward(now time.Time, width time.Duration) {
	if w.width != width { // of a process that has another policy: its slots have other numbers
		*w = window{width: width}
	}
	n := now.UnixNano() / max(1, int64(width)/int64(len(w.slots)))
	for range min(max(0, n-w.at), int64(len(w.slots))) {
		w.at++
		w.slots[w.at%int64(len(w.slots))] = struct{ failures, successes int }{}
	}
	if n > w.at { // all of it was older
		w.at = n
		w.slots[n%int64(len(w.slots))] = struct{ failures, successes int }{}
	}
}

func (w *window) add(now time.Time, width time.Duration, failures, successes int) {
	w.forward(now, width)
	s := &w.slots[w.at%int64(len(w.slots))]
	s.failures += failures
	s.successes += successes
}

// count returns what the last call of forward left.
func (w *window) count() (failures, calls int) {
	for _, s := range w.slots {
		failures += s.failures
		calls += s.failures + s.successes
	}
	return failures, calls
}
