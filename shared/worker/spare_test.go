package worker_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/natstest"
)

// An isolated task runs in the process that was started before it came, and a process
// that ends or hangs while it waits costs the task nothing. The process ends with its
// worker, killed or not, and leaves no folder.
func TestSpare(t *testing.T) {
	t.Parallel()
	url, js := natstest.Listen(t)
	topology(t, js, 20*time.Second)
	l := newLedger(t)
	p, temp := spawnIsolated(t, url, l, envCgroup+"="+withoutCgroup(t))
	run := func(id string) (pid int) {
		t.Helper()
		publishTo(t, js, "test.alone", id, "ok")
		events := l.wait(t, 20*time.Second, id+" ends", ended(id))
		for _, e := range events {
			switch {
			case e.id != id:
			case e.attempt != 0:
				t.Errorf("%s ran with %d attempts behind it, want 0", id, e.attempt)
			case e.what == "start" && pid != 0:
				t.Errorf("%s ran twice", id)
			default:
				pid = e.pid
			}
		}
		return pid
	}
	next := func() (pid int) {
		t.Helper()
		until(t, 10*time.Second, "the next process waits", func() bool {
			pid = spareOf(temp)
			return pid != 0
		})
		return pid
	}

	if pid := spareOf(temp); pid != 0 {
		t.Errorf("process %d waits before there was any task", pid)
	}
	run("first")
	for _, id := range []string{"second", "third"} {
		if want, got := next(), run(id); got != want {
			t.Errorf("the %s task ran in process %d, and %d waited for it", id, got, want)
		}
	}

	waiting := next()
	kill(t, waiting, syscall.SIGKILL)
	if pid := run("after-a-kill"); pid == waiting {
		t.Errorf("the task ran in process %d, which was killed", pid)
	}
	waiting = next()
	kill(t, waiting, syscall.SIGSTOP)
	natstest.WaitStopped(t, waiting)
	publishTo(t, js, "test.alone", "after-a-stop", "ok")
	time.Sleep(100 * time.Millisecond) // for the process to have it; the outcome is the same without
	kill(t, waiting, syscall.SIGKILL)
	run("after-a-stop")

	waiting = next()
	p.Stop()
	if !gone(waiting) {
		t.Errorf("process %d waits on, without its worker", waiting)
	}
	p, _ = spawnIsolated(t, url, l, "TMPDIR="+temp, envCgroup+"="+withoutCgroup(t))
	run("in-a-worker-that-is-killed")
	waiting = next()
	p.Kill()
	until(t, 10*time.Second, "it has ended too, without a trace", func() bool {
		left, _ := os.ReadDir(temp)
		return gone(waiting) && len(left) == 0
	})
}

// spareOf is the process that waits for a task and has its folder in temp, and 0 when
// there is none, or another one beside it which has not ended yet.
func spareOf(temp string) int {
	dirs, _ := filepath.Glob(filepath.Join(temp, "drover-task-*"))
	if len(dirs) != 1 {
		return 0
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range procs {
		text, _ := os.ReadFile(p)
		if slices.Contains(strings.Split(string(text), "\x00"), "TMPDIR="+dirs[0]) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			return pid
		}
	}
	return 0
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}
