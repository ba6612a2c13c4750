package worker_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// event is one line of the ledger.
type event struct {
	what, id string
	pid      int
	attempt  int
	at       time.Time
}

// ledger is where the worker processes of one test write what they ran.
type ledger string

func newLedger(tb testing.TB) ledger {
	tb.Helper()
	return ledger(filepath.Join(tb.TempDir(), "ledger"))
}

// write adds an event of this moment.
func (l ledger) write(what, id string, pid, attempt int) {
	l.writeAt(time.Now(), what, id, pid, attempt)
}

// writeAt adds an event. One write of one short line: atomic with O_APPEND, and it
// outlives SIGKILL.
func (l ledger) writeAt(at time.Time, what, id string, pid, attempt int) {
	f, err := os.OpenFile(string(l), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %s %d %d %d\n", what, id, pid, attempt, at.UnixMicro())
}

func (l ledger) read(tb testing.TB) []event {
	tb.Helper()
	f, err := os.Open(string(l))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var events []event
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e event
		var us int64
		if _, err := fmt.Sscanf(lines.Text(), "%s %s %d %d %d", &e.what, &e.id, &e.pid, &e.attempt, &us); err != nil {
			tb.Fatalf("ledger line %q: %v", lines.Text(), err)
		}
		e.at = time.UnixMicro(us)
		events = append(events, e)
	}
	return events
}

// count returns how often each task has had an event.
func (l ledger) count(tb testing.TB, what string) map[string]int {
	tb.Helper()
	n := map[string]int{}
	for _, e := range l.read(tb) {
		if e.what == what {
			n[e.id]++
		}
	}
	return n
}

// wait returns once ok is true of the ledger, and fails the test after the limit.
func (l ledger) wait(tb testing.TB, limit time.Duration, what string, ok func([]event) bool) []event {
	tb.Helper()
	for deadline := time.Now().Add(limit); ; {
		events := l.read(tb)
		if ok(events) {
			return events
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s; the ledger has %d events", limit, what, len(events))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func ended(id string) func([]event) bool { return happened("end", id) }

func happened(what, id string) func([]event) bool {
	return func(events []event) bool {
		for _, e := range events {
			if e.what == what && e.id == id {
				return true
			}
		}
		return false
	}
}
