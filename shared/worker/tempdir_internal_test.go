package worker

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What a worker holds is nobody else's; what it no longer holds is left over.
func TestHold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours := filepath.Join(dir, taskPrefix+"1")
	for _, d := range []string{ours, filepath.Join(dir, "not-ours")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir, filepath.Join(dir, taskPrefix+"2")); err != nil {
		t.Fatal(err)
	}
	f, err := hold(ours)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := hold(ours); err == nil {
		t.Errorf("hold of what is held = %s, want an error", again.Name())
	}
	if left := orphans(dir); len(left) != 0 {
		t.Errorf("orphans = %v while it is held, want none", left)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	left := orphans(dir)
	if len(left) != 1 || left[0].Name() != ours {
		t.Fatalf("orphans = %v, want %s", left, ours)
	}
	if _, err := hold(filepath.Join(dir, taskPrefix+"3")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("hold of nothing = %v, want %v", err, os.ErrNotExist)
	}
	_ = left[0].Close()
}
