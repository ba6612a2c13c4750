package worker

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A process that no task needs ends after a while, and another one is started only
// when a task was taken.
func TestSpareLapses(t *testing.T) { // not parallel: it sets the environment
	t.Setenv("DROVER_TEST_ROLE", "stray") // one that waits
	t.Setenv("TEST_LEDGER", filepath.Join(t.TempDir(), "ledger"))
	t.Setenv("TMPDIR", t.TempDir())
	s := newSpare()
	s.idle = 200 * time.Millisecond
	started := make(chan *child, 2)
	defer beside(func(ctx context.Context) {
		s.keep(ctx, func() (*child, error) {
			c, err := startChild(&isolation{temp: defaultTemp}, nil, time.Second)
			started <- c
			return c, err
		})
	})()
	if c := s.take(); c != nil {
		t.Error("a process was there before it was asked for")
	}
	c := <-started
	if c == nil {
		t.Fatal("no process was started")
	}
	select {
	case <-c.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the process waits for ever")
	}
	if status, _ := c.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("the process ended by itself: %v", c.how())
	}
	time.Sleep(2 * s.idle) // in which another one would be started
	if len(started) > 0 {
		t.Error("another process was started, and there was no task")
	}
}
