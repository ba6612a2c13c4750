package worker

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

const (
	maxForwarded = 64 << 10 // bytes of a task's output that the worker's shows
	maxTail      = 768      // bytes of it that an error shows: a failure's text has 1 KiB in all
	maxLine      = 256      // bytes of a line that are looked at

	noThread = "runtime/cgo: pthread_create failed" // for want of memory for its stack
)

// output takes what an isolated task prints: it passes the beginning on, keeps the
// end, and drops what is between. It is not safe for concurrent use.
type output struct {
	to    io.Writer
	of    string // kind and id, for the note that the rest is dropped
	n     int64  // bytes so far
	tail  []byte
	line  []byte // as much of the current line as is looked at
	fatal string // the last line in which the Go runtime said why it ends the process
}

// Write never fails: a task is not to be held up by where its output goes.
func (o *output) Write(p []byte) (int, error) {
	n := len(p)
	if left := maxForwarded - o.n; left > 0 {
		_, _ = o.to.Write(p[:min(int64(len(p)), left)])
		if int64(len(p)) > left {
			_, _ = fmt.Fprintf(o.to, "\n%s prints more than %s: the rest is dropped\n", o.of, size(maxForwarded))
		}
	}
	o.n += int64(n)
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		o.line = append(o.line, line[:min(len(line), maxLine-len(o.line))]...)
		if whole {
			o.endLine()
		}
		rest = after
	}
	o.tail = append(o.tail, p[max(0, n-maxTail):]...)
	o.tail = o.tail[max(0, len(o.tail)-maxTail):]
	return n, nil
}

func (o *output) endLine() {
	for _, prefix := range []string{"fatal error: ", "panic: ", noThread} {
		if bytes.HasPrefix(o.line, []byte(prefix)) {
			o.fatal = string(o.line)
		}
	}
	o.line = o.line[:0]
}

// oom reports whether the Go runtime ended the process for want of memory.
func (o *output) oom() bool {
	return strings.HasPrefix(o.fatal, noThread) || strings.HasPrefix(o.fatal, "fatal error: ") &&
		(strings.Contains(o.fatal, "out of memory") || strings.Contains(o.fatal, "cannot allocate memory"))
}

// last is the end of the output for an error's text, or nothing.
func (o *output) last() string {
	if tail := strings.TrimSpace(strings.ToValidUTF8(string(o.tail), "")); tail != "" {
		return "; the last of its output: " + tail
	}
	return ""
}
