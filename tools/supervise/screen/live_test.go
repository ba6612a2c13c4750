package screen_test

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/tools/supervise/screen"
)

// On what is no terminal, a block has 80 columns and 24 lines.
func TestLive(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l := screen.NewLive(w)
	l.Paint([]string{"one", "two"})
	l.Print("above")
	l.Paint(append([]string{strings.Repeat("x", 100)}, make([]string, 30)...))
	l.Close()
	l.Close()
	l.Paint([]string{"too late"})
	l.Print("after")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	const (
		begin = "\x1b[?2026h\x1b[?25l\x1b[?7l\r"
		end   = "\x1b[J\x1b[?7h\x1b[?2026l"
		block = "\rone\x1b[K\n\rtwo\x1b[K"
	)
	want := []string{
		begin + block + end,
		begin + "\x1b[1A\x1b[J\x1b[?7habove\n\x1b[?7l" + block + end,
		begin + "\x1b[1A\r" + strings.Repeat("x", 79) + "…\x1b[K" + strings.Repeat("\n\r\x1b[K", 22) + end,
		"\n\x1b[?25h",
		"after\n",
	}
	if d := cmp.Diff(strings.Join(want, ""), string(b)); d != "" {
		t.Errorf("what was written (-want +got):\n%s", d)
	}
}
