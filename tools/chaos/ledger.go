package chaos

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Writer appends events to the file of one process. An event is one write of one
// line to a file opened for appending, so that it outlives the process however
// that ends. It is safe for concurrent use.
type Writer struct {
	proc string
	ppid int // when it began: a process whose parent has ended has another
	mu   sync.Mutex
	f    *os.File
}

// Open returns a writer of the process called proc, in a file of its own in dir.
func Open(dir, proc string) (*Writer, error) {
	name := filepath.Join(dir, fmt.Sprintf("%s-%d.jsonl", proc, os.Getpid()))
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return &Writer{proc: proc, ppid: os.Getppid(), f: f}, nil
}

// Write stamps e with the time and, where it names none, with this process, and
// appends it. The ledger is what a run is judged by, so an error should end the
// process.
func (w *Writer) Write(e Event) error {
	if e.Mono == 0 {
		e.Mono = Now()
	}
	e.Wall = cmp.Or(e.Wall, time.Now().UnixNano())
	if e.Proc == "" {
		e.Proc, e.PID, e.PPID = w.proc, os.Getpid(), w.ppid
	}
	line, err := json.Marshal(&e)
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// Close closes the file.
func (w *Writer) Close() error { return w.f.Close() }

// Now is the clock of Event.Mono, in ns.
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0 // every Linux has it
	}
	return t.Nano()
}

// Ledger is what all processes of one run wrote, in the order of time.
type Ledger struct {
	Events []Event
	Torn   int // last lines of killed processes that are not whole
}

// Read reads all files of dir. A file whose last line is torn is counted; any
// other line that does not parse is an error.
func Read(dir string) (*Ledger, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	var l Ledger
	for _, name := range names {
		if err := l.read(name); err != nil {
			return nil, fmt.Errorf("read ledger %s: %w", name, err)
		}
	}
	slices.SortStableFunc(l.Events, func(a, b Event) int { return cmp.Compare(a.Mono, b.Mono) })
	return &l, nil
}

func (l *Ledger) read(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for r, n := bufio.NewReader(f), 1; ; n++ {
		line, err := r.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF):
			if len(line) > 0 {
				l.Torn++
			}
			return nil
		case err != nil:
			return err
		}
		var e Event
		if err := json.Unmarshal(bytes.TrimSpace(line), &e); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		l.Events = append(l.Events, e)
	}
}
