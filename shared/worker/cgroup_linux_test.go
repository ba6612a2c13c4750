package worker_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/shared/natstest"
)

// delegate makes a cgroup of version 2 and hands it over, as systemd does. memory
// tells whether the kernel can count memory in it. dir is "" where that is not allowed
// or there is no such cgroup.
func delegate(tb testing.TB) (dir string, memory bool) {
	tb.Helper()
	dir = newCgroup(tb)
	if dir == "" {
		return "", false
	}
	if err := errors.Join(unix.Setxattr(dir, "trusted.delegate", []byte("1"), 0)); err != nil {
		tb.Logf("mark %s: %v", dir, err)
		return "", false
	}
	text, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	return dir, slices.Contains(strings.Fields(string(text)), "memory")
}

// withoutCgroup returns a cgroup that is nobody's to divide, or "" where the test
// cannot make one, and the worker has to do with that of the test.
func withoutCgroup(tb testing.TB) string {
	tb.Helper()
	return newCgroup(tb)
}

func newCgroup(tb testing.TB) string {
	tb.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		root := strings.Fields(before)[4]
		for _, c := range []string{"+memory", "+pids"} { // where it is there, and not in use by others
			_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte(c), 0)
		}
		dir, err := os.MkdirTemp(root, "drover-test-") //nolint:usetesting // it has to be there
		if err != nil {
			return ""
		}
		tb.Cleanup(func() { sweepCgroup(tb, dir) })
		return dir
	}
	return ""
}

// sweepCgroup ends what runs in dir and removes it.
func sweepCgroup(tb testing.TB, dir string) {
	tb.Helper()
	if _, err := os.Stat(dir); err != nil {
		return
	}
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	until(tb, 10*time.Second, dir+" is empty", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		return !bytes.Contains(text, []byte("populated 1"))
	})
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	if err := os.Remove(dir); err != nil {
		tb.Errorf("remove a cgroup: %v", err)
	}
}

// forbidClone3 has the kernel refuse clone3 to this process and all that it starts, as
// the usual filter of containers does.
func forbidClone3() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE3, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	return nil
}

// Where clone3 is refused, as in most containers, a task is put into its cgroup after
// its start, and is held there as well.
func TestIsolatedWithoutClone3(t *testing.T) {
	t.Parallel()
	dir, _ := delegate(t)
	if dir == "" {
		t.Log("this machine lets nobody make cgroups of version 2 here: it is shown that tasks run")
	}
	url, js := natstest.Listen(t)
	topology(t, js, ackWait)
	l := newLedger(t)
	p, _ := spawnIsolated(t, url, l, envCgroup+"="+dir, envNoClone3+"=1")
	publishTo(t, js, "test.alone", "ok", "ok")
	publishTo(t, js, "test.hasty", "fork", "fork")
	until(t, 20*time.Second, "both have come to their end", func() bool {
		return len(letters(t, js)) == 1 && len(l.count(t, "end")) == 1
	})
	p.Stop()
	strays := 0
	for _, e := range l.read(t) {
		if e.what != "stray" {
			continue
		}
		strays++
		if !gone(e.pid) && dir != "" {
			t.Errorf("process %d (%s), which a task left behind, goes on", e.pid, e.id)
		}
		_ = unix.Kill(e.pid, unix.SIGKILL)
	}
	if strays != 3 {
		t.Errorf("%d processes were left behind, want 3", strays)
	}
	if dir != "" {
		checkEmptied(t, dir)
	}
}

// checkEmptied says that no task has left a cgroup in dir.
func checkEmptied(t *testing.T, dir string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(dir, "drover-task-*")); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
}
