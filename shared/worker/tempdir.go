package worker

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	measureEvery = 100 * time.Millisecond
	minEntry     = 4 << 10 // bytes: an empty file takes room too, and many of them make measuring slow
	removeTries  = 5
)

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
