// Package console shows a supervised fleet to whoever started it, and drains it
// when they ask: on a terminal as one screen that is painted again, elsewhere as a
// line from time to time, and for programs as JSON.
//
// # Concurrency
//
// A [Console] is safe for concurrent use, except that Run is called once.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/droverhq/drover/tools/supervise"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// Options say what to show and where. Stdout and Dir are required.
type Options struct {
	Stdout io.Writer
	JSON   bool          // write JSON, one object on a line
	Dir    string        // state folder, to be named
	Begun  time.Time     // when the command was started
	Every  time.Duration // between status lines where there is no terminal; 0 means 10 s

	Advice  func(*supervise.Supervisor) []string // what to type once the fleet is ready; nil for nothing
	World   func() []string                      // lines about what is outside of the fleet; nil for none
	Summary func() string                        // the same in a few words, with " · " before them; nil for none
	Outside map[string]string                    // the same for programs: addresses by name
}

// Console shows one fleet. Make one with [New].
type Console struct {
	o     Options
	style screen.Style
	live  *screen.Live // nil where there is no terminal

	mu sync.Mutex // one line at a time
}

const (
	usualEvery = 10 * time.Second
	paintEvery = 500 * time.Millisecond
	drainEvery = 100 * time.Millisecond
	patience   = 10 * time.Second // until processes that are not ready are named
)

// New returns a console. It has to be closed.
func New(o Options) *Console {
	c := &Console{o: o, style: screen.StyleOf(o.Stdout)}
	if c.o.Every == 0 {
		c.o.Every = usualEvery
	}
	if f, ok := o.Stdout.(*os.File); ok && !o.JSON && screen.IsTerminal(f) {
		c.live = screen.NewLive(f)
	}
	return c
}

// Close leaves the terminal as it should be.
func (c *Console) Close() {
	if c.live != nil {
		c.live.Close()
	}
}

// Run shows s until a signal comes, and then drains it. A second signal ends at
// once what has not ended. It returns what [supervise.Supervisor.Stop] does, and
// [supervise.Supervisor.Refused].
func (c *Console) Run(ctx context.Context, s *supervise.Supervisor, signals <-chan os.Signal) error {
	last := c.watch(ctx, s, signals)
	c.Say("drains; ctrl-C again ends it at once, and what runs then runs again later")
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { ended <- s.Stop(ctx) })
	ticks := time.NewTicker(drainEvery)
	defer ticks.Stop()
	for {
		select {
		case err := <-ended:
			c.show(s, last, "drained")
			if err == nil {
				c.Say("drained; what is left is kept in " + c.o.Dir)
			}
			return errors.Join(err, s.Refused())
		case <-signals:
			kill()
		case <-ticks.C:
			c.show(s, last, "draining")
		}
	}
}

// watch shows the fleet until a signal comes. It returns what it saw last.
func (c *Console) watch(ctx context.Context, s *supervise.Supervisor, signals <-chan os.Signal) (st supervise.State) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := make(chan error, 1)
	wg.Go(func() {
		late, stop := context.WithTimeout(ctx, patience)
		defer stop()
		ready <- s.WaitReady(late)
	})
	every := c.o.Every
	if c.live != nil {
		every = paintEvery
	}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	c.show(s, st, "starting")
	for {
		select {
		case err := <-ready:
			c.ready(s, err)
			if c.live == nil {
				continue
			}
		case <-ticks.C:
		case <-signals:
			return st
		case <-ctx.Done():
			return st
		}
		st = s.State(ctx, time.Second)
		if c.live != nil {
			c.show(s, st, "")
			continue
		}
		c.status(st)
	}
}

// ready says where everything is, and what to type next.
func (c *Console) ready(s *supervise.Supervisor, err error) {
	took := time.Since(c.o.Begun).Round(time.Millisecond)
	if c.o.JSON {
		line := map[string]any{
			"event": "ready", "took_ms": took.Milliseconds(), "broker": s.URL(), "admin": s.Admin(), "state": c.o.Dir,
			"processes": s.Processes(),
		}
		for name, address := range c.o.Outside {
			line[name] = address
		}
		if err != nil {
			line["event"], line["error"] = "not ready", err.Error()
		}
		c.emit(line)
		return
	}
	headline, processes := c.style.Good(fmt.Sprintf("ready in %d ms", took.Milliseconds())), screen.Some(len(s.Processes()), "process", "processes")
	if err != nil {
		if !errors.Is(err, supervise.ErrRefused) { // which an event has said
			c.print(c.style.Odd(screen.Plain(err.Error())) + "; logs are in " + s.Logs())
		}
		headline, processes = c.style.Odd("not all is ready"), fmt.Sprintf("%d of %s", readyOf(s.Processes()), processes)
	}
	c.print(fmt.Sprintf("%s: broker %s, %s, state in %s", headline, s.URL(), processes, c.o.Dir))
	if err == nil && c.o.Advice != nil {
		c.print(c.o.Advice(s)...)
	}
}

func readyOf(processes []supervise.Process) (n int) {
	for _, p := range processes {
		if p.Ready {
			n++
		}
	}
	return n
}

// status is the state where there is no screen.
func (c *Console) status(st supervise.State) {
	if c.o.JSON {
		line := map[string]any{"event": "state", "processes": st.Processes, "lanes": supervise.Shares(st.Lanes)}
		if st.Err != nil {
			line["error"] = st.Err.Error()
		}
		c.emit(line)
		return
	}
	text := st.Summary()
	if c.o.Summary != nil {
		text += c.o.Summary()
	}
	c.print(time.Now().Format(time.TimeOnly) + "  " + text)
}

// show paints the screen. It asks nobody, so it works while the fleet ends.
func (c *Console) show(s *supervise.Supervisor, st supervise.State, headline string) {
	if c.live == nil {
		return
	}
	st.Processes = s.Processes()
	head := c.style.Bold("drover up") + "  broker " + s.URL()
	if a := s.Admin(); a != "" {
		head += " · admin http://" + a
	}
	head += " · up " + screen.Span(time.Since(c.o.Begun))
	if headline != "" {
		head += " · " + c.style.Busy(headline)
	} else {
		head += c.style.Dim(" · ctrl-C drains")
	}
	lines := append([]string{"", head, ""}, st.ProcessLines(c.style, time.Now())...)
	lines = append(append(lines, ""), st.LaneLines(c.style)...)
	if c.o.World != nil {
		lines = append(append(lines, ""), c.o.World()...)
	}
	c.live.Paint(lines)
}

// Event shows what a process warns of, or that it has ended. It is for
// [supervise.Config].
func (c *Console) Event(e supervise.Event) {
	if c.o.JSON {
		c.emit(map[string]any{"event": e.Kind, "process": e.Process, "text": e.Text})
		return
	}
	text := screen.Plain(e.Text)
	if e.Kind == supervise.Ended {
		text = c.style.Bad(text)
	}
	c.print(e.At.Format(time.TimeOnly) + "  " + c.style.Odd(e.Process) + "  " + text)
}

// Logger is for what the supervisor and its broker warn of.
func (c *Console) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(lines{c}, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{} // the console says it
		}
		return a
	}}))
}

// lines shows what is written as events, a line at a time.
type lines struct{ c *Console }

func (l lines) Write(p []byte) (int, error) {
	l.c.Event(supervise.Event{At: time.Now(), Kind: supervise.Logged, Process: "drover", Text: supervise.Text(strings.TrimSpace(string(p)))})
	return len(p), nil
}

// Say shows what is of the whole fleet, in a line.
func (c *Console) Say(text string) {
	if c.o.JSON {
		c.emit(map[string]any{"event": "fleet", "text": text})
		return
	}
	c.print(time.Now().Format(time.TimeOnly) + "  " + text)
}

func (c *Console) print(lines ...string) {
	if c.live != nil {
		c.live.Print(lines...)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintln(c.o.Stdout, strings.Join(lines, "\n")) // the reader may have gone; the fleet goes on
}

func (c *Console) emit(v map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	enc := json.NewEncoder(c.o.Stdout)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // as with print
}
