package supervise

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxLine = 64 << 10 // bytes of a line that are looked at; all of it is written down
	maxLog  = 32 << 20 // bytes of a log file, until it becomes .1 and a new one is begun
	calm    = 10 * time.Second
	maxCalm = 100 // messages that are remembered for that
)

// read writes down what the process says until it has ended, and passes on what
// an operator should see.
func (p *process) read(r io.Reader) {
	in := bufio.NewReaderSize(r, maxLine)
	quiet := map[string]*repeated{}
	whole := true // the next piece begins a line
	for {
		piece, err := in.ReadSlice('\n')
		if len(piece) > 0 {
			p.log.write(piece)
			if whole {
				p.heard(strings.TrimRight(string(piece), "\r\n"), quiet)
			}
			whole = !errors.Is(err, bufio.ErrBufferFull)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// repeated is a message that was shown lately.
type repeated struct {
	until  time.Time
	hidden int
}

// What a service logs: once its admin port is open, with its address, and when it
// ends to be started again, with the reason.
const (
	msgAdmin = "admin port is open"
	msgFresh = "service wants a fresh process"
)

func (p *process) heard(line string, quiet map[string]*repeated) {
	if strings.TrimSpace(line) == "" {
		return
	}
	rec, ok := parseRecord(line)
	text := line
	if ok {
		text = rec.text()
	}
	p.mu.Lock()
	p.last = text
	if blames(p.service, line, rec) {
		p.blame = text
	}
	if ok && rec.message == msgAdmin {
		p.state.Admin = rec.attr("addr")
	}
	p.mu.Unlock()
	if !ok || rec.level != "WARN" && rec.level != "ERROR" {
		return // what is no record, such as the stack of a panic, is in the log file
	}
	now := time.Now()
	seen := quiet[rec.message]
	if seen != nil && now.Before(seen.until) {
		seen.hidden++
		return
	}
	if seen != nil && seen.hidden > 0 {
		text += fmt.Sprintf(" (and %d times before)", seen.hidden)
	}
	if len(quiet) >= maxCalm {
		clear(quiet)
	}
	quiet[rec.message] = &repeated{until: now.Add(calm)}
	p.s.tell(Event{Kind: Logged, Process: p.name, Service: p.service, Text: text})
}

// blames reports whether a line is one of those that say why a process ends: an
// error, the first line of a crash, or what it tells the operator on its way out.
func blames(service, line string, rec record) bool {
	if rec.level == "ERROR" || rec.message == msgFresh {
		return true
	}
	for _, begin := range []string{"panic: ", "fatal error: ", service + ": "} {
		if strings.HasPrefix(line, begin) {
			return true
		}
	}
	return false
}

// record is a line of slog's text format.
type record struct {
	level, message string
	attrs          [][2]string
}

// Text is a line of slog's text format as one for people, and any other as it is.
func Text(line string) string {
	if r, ok := parseRecord(line); ok {
		return r.text()
	}
	return line
}

// parseRecord reads a line such as: time=… level=WARN msg="a b" error="x: y".
func parseRecord(line string) (record, bool) {
	var r record
	for rest := line; rest != ""; {
		key, value, ok := strings.Cut(rest, "=")
		if !ok {
			return record{}, false
		}
		if quoted, err := strconv.QuotedPrefix(value); err == nil {
			rest = value[len(quoted):]
			value, _ = strconv.Unquote(quoted) // it is a quoted string
		} else {
			value, rest, _ = strings.Cut(value, " ")
		}
		rest = strings.TrimPrefix(rest, " ")
		switch key {
		case "time":
		case "level":
			r.level = value
		case "msg":
			r.message = value
		default:
			r.attrs = append(r.attrs, [2]string{key, value})
		}
	}
	return r, r.level != "" && r.message != ""
}

func (r record) attr(key string) string {
	for _, a := range r.attrs {
		if a[0] == key {
			return a[1]
		}
	}
	return ""
}

// text is the record as one line for people.
func (r record) text() string {
	var b strings.Builder
	b.WriteString(r.message)
	for _, a := range r.attrs {
		switch a[0] {
		case "service.name", "trace_id", "span_id": // the one is known, the others are for programs
		case "error", "reason":
			b.WriteString(": " + a[1])
		default:
			b.WriteString(" " + a[0] + "=" + a[1])
		}
	}
	return b.String()
}

// logFile is everything that one process says, over all its lives.
type logFile struct {
	mu   sync.Mutex
	f    *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &logFile{f: f, size: info.Size()}, nil
}

// write appends b. A disk that is full must not stop the process that writes, so
// what cannot be written is lost.
func (l *logFile) write(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > maxLog {
		if err := os.Rename(l.f.Name(), l.f.Name()+".1"); err == nil {
			if fresh, err := os.OpenFile(l.f.Name(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err == nil {
				_ = l.f.Close() // its lines are written
				l.f = fresh
			}
		}
		l.size = 0
	}
	n, _ := l.f.Write(b)
	l.size += int64(n)
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.f.Close() // as with write
}
