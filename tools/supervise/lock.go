package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrInUse is returned by Start, wrapped with what to do, when another supervisor
// uses the state folder.
var ErrInUse = errors.New("state folder is in use")

// lock makes the state folder and takes the lock in it. The system frees the lock
// when the process ends, whatever ends it.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w: name another with --state", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state folder: %w: name another with --state", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder := "another `drover up`"
		if b, err := io.ReadAll(io.LimitReader(f, 32)); err == nil && len(b) > 0 {
			holder += " (process " + strings.TrimSpace(string(b)) + ")"
		}
		_ = f.Close() // it was only read
		return nil, fmt.Errorf("%w: %s runs on %s: end that one, or name another folder with --state", ErrInUse, holder, dir)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	}
	if err != nil {
		_ = f.Close() // nothing in it matters
		return nil, fmt.Errorf("lock state folder %s: %w", dir, err)
	}
	return f, nil
}
