package screen

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// Live is a block of lines at the bottom of a terminal that is painted again in
// place. Lines that are printed meanwhile scroll by above it and stay.
type Live struct {
	f *os.File

	mu      sync.Mutex
	painted []string // what is on the screen now
	closed  bool
}

const (
	wrap, noWrap = "\x1b[?7h", "\x1b[?7l"

	beginFrame = "\x1b[?2026h\x1b[?25l" + noWrap // one update, and no cursor
	endFrame   = wrap + "\x1b[?2026l"
	showCursor = "\x1b[?25h"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"

	usualWidth, usualHeight = 80, 24
)

// NewLive returns a block on a terminal. It has to be closed, for the cursor's sake.
func NewLive(f *os.File) *Live { return &Live{f: f} }

// Paint replaces the block. Lines are cut where the terminal ends, and those that
// do not fit below each other are left out at the end.
func (l *Live) Paint(lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.frame(nil, lines)
	}
}

// Print writes lines above the block.
func (l *Live) Print(lines ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_, _ = fmt.Fprintln(l.f, strings.Join(lines, "\n"))
		return
	}
	l.frame(lines, l.painted)
}

func (l *Live) frame(above, block []string) {
	width, height, err := term.GetSize(int(l.f.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = usualWidth, usualHeight
	}
	if len(block) > height-1 {
		block = block[:max(0, height-1)]
	}
	var b strings.Builder
	b.WriteString(beginFrame + "\r")
	if n := len(l.painted); n > 1 {
		fmt.Fprintf(&b, "\x1b[%dA", n-1)
	}
	if len(above) > 0 { // these may wrap: nobody has to find them again
		b.WriteString(clearBelow + wrap + strings.Join(above, "\n") + "\n" + noWrap)
	}
	for i, line := range block {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString("\r" + Cut(line, width) + clearLine)
	}
	b.WriteString(clearBelow + endFrame)
	_, _ = l.f.WriteString(b.String()) // nobody watches any more
	l.painted = block
}

// Close leaves the block as it is, and the cursor below it. Print goes on to work.
func (l *Live) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	end := showCursor
	if len(l.painted) > 0 {
		end = "\n" + end
	}
	_, _ = l.f.WriteString(end) // as with frame
}
