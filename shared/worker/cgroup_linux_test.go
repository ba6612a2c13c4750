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

	"golang.org/x/sys/unix"
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
		dir, err := os.MkdirTemp(root, "drover-test-")
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

// checkEmptied says that no task has left a cgroup in dir.
func checkEmptied(t *testing.T, dir string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(dir, "drover-task-*")); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
}
