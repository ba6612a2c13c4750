package worker

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is a cgroup of version 2 that this process may divide: each isolated task
// gets one of its own below it. Its files are written as they are, because what
// libraries add is the other version, and systemd's bus.
type cgroups struct {
	dir     string
	memory  bool // memory.max holds for a task and all that it starts
	pids    bool // pids.max too
	lacking string
	writes  atomic.Bool // a process is put into its cgroup by writing: clone3 is not there
}

const (
	ownLeaf      = "worker" // where the processes of the delegated cgroup go: one that is divided holds none
	maxProcesses = 1024     // processes and threads of one task
	moveTries    = 5        // for processes that start others meanwhile
	endLimit     = 2 * time.Second
)

// delegated finds the cgroup that this process may divide, and divides it. Its error
// says why there is none.
func delegated() (*cgroups, error) {
	dir, inside, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	c := &cgroups{dir: dir}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil {
		return nil, errors.New("the kernel has no cgroup.kill: it is older than 5.14")
	}
	if err := c.writable(); err != nil {
		return nil, err
	}
	if err := c.divide(inside); err != nil {
		c.lacking = err.Error()
	}
	return c, nil
}

// ownCgroup returns the cgroup that was handed to this process, and whether the
// process is in it, and not in one below. Root can write to all of them: only a mark
// that systemd leaves, or the root of a container's own view, says that nobody else
// manages it.
func ownCgroup() (dir string, inside bool, err error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	mount, dir, err := place(string(text), string(mounts))
	if err != nil {
		return "", false, err
	}
	parent := filepath.Dir(dir)
	switch atRoot := dir == mount; {
	case handedOver(dir) || atRoot && contained(dir):
		return dir, true, nil
	case atRoot:
	case handedOver(parent), parent == mount && filepath.Base(dir) == ownLeaf && contained(parent):
		return parent, false, nil
	}
	return "", false, errors.New("no cgroup is delegated to it")
}

// place returns where cgroups of version 2 are mounted, and there that of the process
// whose files cgroup and mountinfo are in /proc: cgroups(7), proc_pid_mountinfo(5).
func place(cgroup, mountinfo string) (mount, dir string, err error) {
	own, found := "", false
	for line := range strings.Lines(cgroup) {
		if after, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			own, found = after, true
		}
	}
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !found || len(f) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		root := strings.TrimSuffix(f[3], "/")
		below, ok := strings.CutPrefix(own, root)
		if !ok || below != "" && below[0] != '/' {
			return "", "", errors.New("its cgroup is outside of what is mounted")
		}
		return filepath.Clean(f[4]), filepath.Join(f[4], below), nil
	}
	return "", "", errors.New("cgroup version 2 is not mounted")
}

// handedOver reports whether systemd, or who does as it does, has delegated dir.
func handedOver(dir string) bool {
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		value := make([]byte, 8)
		if n, err := unix.Getxattr(dir, name, value); err == nil && string(value[:n]) == "1" {
			return true
		}
	}
	return false
}

// contained reports whether dir, the root of what is mounted, is not that of the
// machine, which alone has no type.
func contained(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.type"))
	return err == nil
}

// writable makes a cgroup and removes it again.
func (c *cgroups) writable() error {
	dir, err := os.MkdirTemp(c.dir, taskPrefix)
	if err == nil {
		err = os.Remove(dir)
	}
	if err != nil {
		return fmt.Errorf("its cgroup cannot be divided: %w", err)
	}
	return nil
}

// divide has the kernel count memory and processes for each cgroup below. Its error
// says what is not counted.
func (c *cgroups) divide(inside bool) error {
	offered := words(filepath.Join(c.dir, "cgroup.controllers"))
	enabled := func() (memory, pids bool) {
		now := words(filepath.Join(c.dir, "cgroup.subtree_control"))
		return slices.Contains(now, "memory"), slices.Contains(now, "pids")
	}
	var errs []error
	for _, name := range []string{"memory", "pids"} {
		if !slices.Contains(offered, name) {
			errs = append(errs, fmt.Errorf("the controller %s is not delegated", name))
			continue
		}
		var err error
		for range moveTries {
			if inside {
				if err = c.moveAll(); err != nil {
					break
				}
			}
			if err = write(c.dir, "cgroup.subtree_control", "+"+name); !errors.Is(err, unix.EBUSY) {
				break
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the controller %s: %w", name, err))
		}
	}
	c.memory, c.pids = enabled() // by another process of this cgroup too
	return errors.Join(errs...)
}

// moveAll moves what is in the delegated cgroup into one below, this process
// included: the kernel divides memory between cgroups without processes only.
func (c *cgroups) moveAll() error {
	leaf := filepath.Join(c.dir, ownLeaf)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as the kernel's own
		return err
	}
	for _, pid := range words(filepath.Join(c.dir, "cgroup.procs")) {
		if err := write(leaf, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// group is the cgroup of one task.
type group struct {
	of  *cgroups
	dir string
	f   *os.File // locked for as long as this process lives, so that another one leaves it alone

	// After end.
	oom    bool // the kernel ended the task for want of memory
	capped bool // because of its own cap
}

// add makes the cgroup of one task.
func (c *cgroups) add(name string, limits *isolation) (*group, error) {
	g := &group{of: c, dir: filepath.Join(c.dir, name)}
	if err := os.Mkdir(g.dir, 0o755); err != nil { //nolint:gosec // as the kernel's own
		return nil, err
	}
	var err error
	if g.f, err = hold(g.dir); err == nil {
		err = g.limit(limits)
	}
	if err != nil {
		return nil, errors.Join(err, g.end())
	}
	return g, nil
}

func (g *group) limit(i *isolation) error {
	if g.of.pids {
		if err := write(g.dir, "pids.max", strconv.Itoa(maxProcesses)); err != nil {
			return err
		}
	}
	if !g.of.memory || i.memory == 0 {
		return nil
	}
	if err := write(g.dir, "memory.swap.max", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without swap
		return err
	}
	return errors.Join(write(g.dir, "memory.oom.group", "1"), write(g.dir, "memory.max", strconv.FormatInt(i.memory, 10)))
}

// into has a process started in the cgroup, unless clone3 was refused before.
func (g *group) into(attr *syscall.SysProcAttr) {
	attr.UseCgroupFD, attr.CgroupFD = !g.of.writes.Load(), int(g.f.Fd())
}

// refused reports whether err says that a process cannot be started in a cgroup, as the
// usual filter of containers has it. From then on they are started and put there.
func (g *group) refused(attr *syscall.SysProcAttr, err error) bool {
	if !attr.UseCgroupFD || !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return false
	}
	g.of.writes.Store(true)
	return true
}

// join puts a process that was started with attr into the cgroup, if it is not in it.
func (g *group) join(attr *syscall.SysProcAttr, pid int) error {
	if attr.UseCgroupFD {
		return nil
	}
	return write(g.dir, "cgroup.procs", strconv.Itoa(pid))
}

func (g *group) kill() { killCgroup(g.dir) }

func killCgroup(dir string) { _ = write(dir, "cgroup.kill", "1") } // gone already: nothing to do

// end kills what is in the cgroup and removes it once that has ended. Its error is
// that something does not end.
func (g *group) end() error {
	g.kill()
	err := g.empty()
	if g.of.memory {
		events := filepath.Join(g.dir, "memory.events")
		g.oom, g.capped = count(events, "oom_kill") > 0, count(events, "oom") > 0
	}
	if err == nil {
		err = removeCgroup(g.dir)
	}
	if g.f != nil {
		_ = g.f.Close()
		g.f = nil
	}
	return err
}

// empty waits until the last process in the cgroup has ended.
func (g *group) empty() error {
	f, err := os.Open(filepath.Join(g.dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	text := make([]byte, 256)
	for limit := time.Now().Add(endLimit); ; {
		n, _ := f.ReadAt(text, 0)
		if !bytes.Contains(text[:n], []byte("populated 1")) {
			return nil
		}
		left := time.Until(limit)
		if left <= 0 {
			return fmt.Errorf("%s: what was killed in it has not ended after %v", g.dir, endLimit)
		}
		// The kernel says when the file is another one than was read.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, int(left.Milliseconds())+1)
	}
}

// removeCgroup removes dir and those that a task made in it.
func removeCgroup(dir string) error {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	var err error
	for _, d := range slices.Backward(dirs) {
		err = os.Remove(d)
	}
	return err
}

// sweep ends what is left of tasks of workers that were killed.
func (c *cgroups) sweep() (n int) {
	for _, dir := range orphans(c.dir) {
		g := group{of: c, dir: dir.Name(), f: dir}
		if g.end() == nil {
			n++
		}
	}
	return n
}

func write(dir, file, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// words is what a file of the kernel's lists, and nothing when it cannot be read.
func words(path string) []string {
	text, _ := os.ReadFile(path)
	return strings.Fields(string(text))
}

// count is the number after name in a file of the kernel's.
func count(path, name string) int {
	text, _ := os.ReadFile(path)
	for line := range bytes.Lines(text) {
		if after, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			n, _ := strconv.Atoi(string(bytes.TrimSpace(after)))
			return n
		}
	}
	return 0
}
