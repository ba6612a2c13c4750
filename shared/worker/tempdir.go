package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	measureEvery = 100 * time.Millisecond
	minEntry     = 4 << 10 // bytes: an empty file takes room too, and many of them make measuring slow
	removeTries  = 5
)

// taskPrefix begins the name of what an isolated task has: its temp folder, its
// cgroup. What follows is the same for both.
const taskPrefix = "drover-task-"

// errTaken is that another process has taken the folder, or removed it.
var errTaken = errors.New("another process has it")

// hold opens dir and locks it for as long as the file is open, and this process lives:
// what is not locked belongs to a worker that was killed.
func hold(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = errTaken
		held, herr := f.Stat()
		if there, terr := os.Lstat(dir); herr == nil && terr == nil && os.SameFile(held, there) {
			return f, nil
		}
	}
	_ = f.Close()
	return nil, fmt.Errorf("lock %s: %w", dir, err)
}

// newTemp makes a temp folder, which is this process's until the file is closed.
func newTemp() (*os.File, error) {
	var err error
	for range removeTries { // another worker that starts may take it for one that was left
		var dir string
		if dir, err = os.MkdirTemp("", taskPrefix); err != nil {
			return nil, err
		}
		var f *os.File
		if f, err = hold(dir); err == nil {
			return f, nil
		}
		_ = os.Remove(dir)
	}
	return nil, err
}

// orphans returns what tasks of workers that were killed have left in dir, locked.
// The caller closes it.
func orphans(dir string) []*os.File {
	entries, _ := os.ReadDir(dir) // what cannot be read has nothing of ours
	var found []*os.File
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), taskPrefix) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue
		}
		if f, err := hold(filepath.Join(dir, e.Name())); err == nil {
			found = append(found, f)
		}
	}
	return found
}

// sweepTemp ends what tasks of workers that were killed have left behind, and removes
// their temp folders.
func sweepTemp() (n int) {
	for _, f := range orphans(os.TempDir()) {
		killStrays(isolatedEnv+"="+filepath.Base(f.Name()), 0, nil)
		if removeTemp(f.Name()) == nil {
			n++
		}
		_ = f.Close()
	}
	return n
}

// errFull ends a walk that has seen enough.
var errFull = errors.New("above the limit")

// fits reports whether what is in dir takes at most limit bytes. What vanishes
// meanwhile is not counted; a folder that cannot be read does not fit.
func fits(dir string, limit int64) bool {
	var used int64
	return filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return nil //nolint:nilerr // it has vanished
		}
		var blocks int64 // what it takes, which a file with holes in it does not tell by its length
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			blocks = st.Blocks * 512
		}
		if used += max(blocks, minEntry); used > limit {
			return errFull
		}
		return nil
	}) == nil
}

// removeTemp removes dir, whatever permissions its owner gave the folders in it.
func removeTemp(dir string) error {
	var err error
	for range removeTries { // a process that was killed may still finish a write
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, _ error) error {
			if e != nil && e.IsDir() {
				_ = os.Chmod(path, 0o700) //nolint:gosec // a folder needs the x
			}
			return nil
		})
	}
	return err
}
