package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/supervise"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// show is what a person sees of the demo while it runs: one screen on a terminal,
// and elsewhere a line for each step.
type show struct {
	d     *demo
	begun time.Time
	w     io.Writer // nil for nowhere
	style screen.Style
	live  *screen.Live // nil where there is no terminal

	painting sync.WaitGroup
	stop     context.CancelFunc // of painting

	mu     sync.Mutex
	acts   map[string]stage
	took   map[string]time.Duration // by part
	since  map[string]time.Time
	recent []string // the last few things that happened
}

type stage int

const (
	waiting stage = iota
	playing
	played
)

const (
	paintEvery = 100 * time.Millisecond
	lanesAge   = 500 * time.Millisecond
	recentMost = 5
	barWidth   = 16
)

func newShow(d *demo, begun time.Time) *show {
	sh := &show{d: d, begun: begun, w: d.o.Stdout, acts: map[string]stage{}, took: map[string]time.Duration{}, since: map[string]time.Time{}, stop: func() {}}
	if sh.w == nil {
		return sh
	}
	sh.style = screen.StyleOf(sh.w)
	if f, ok := sh.w.(*os.File); ok && screen.IsTerminal(f) {
		sh.live = screen.NewLive(f)
	}
	return sh
}

// start says that the fleet is ready, and paints from now on.
func (sh *show) start() {
	d := sh.d
	sh.say("ready in %d ms: broker %s, mail server %s, receivers %s and %s, %s", time.Since(sh.begun).Milliseconds(), d.s.URL(), d.mail.Addr(), d.hooks.URL(), d.billing.URL(),
		screen.Some(len(d.s.Processes()), "process", "processes"))
	if sh.live == nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	sh.stop = stop
	sh.painting.Go(func() {
		ticks := time.NewTicker(paintEvery)
		defer ticks.Stop()
		for {
			sh.paint(d.s.State(ctx, lanesAge))
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// close leaves what there is to see, and the terminal as it was.
func (sh *show) close() {
	sh.stop()
	sh.painting.Wait()
	if sh.live != nil {
		sh.live.Close()
	}
}

// begin says that a part begins.
func (sh *show) begin(part string) {
	sh.mu.Lock()
	first := sh.acts[part] == waiting
	if first {
		sh.acts[part], sh.since[part] = playing, time.Now()
	}
	sh.mu.Unlock()
	if first {
		sh.plain(part + ": " + sh.d.intention(part))
	}
}

// end says how a part went.
func (sh *show) end(part string) {
	sh.mu.Lock()
	sh.acts[part], sh.took[part] = played, time.Since(sh.since[part])
	sh.mu.Unlock()
	sh.plain(part + ": " + sh.d.progress(part))
}

// say is for what everybody should read.
func (sh *show) say(format string, args ...any) {
	text := screen.Plain(fmt.Sprintf(format, args...))
	sh.remember(text)
	sh.plain(text)
}

// note is for who watches closely.
func (sh *show) note(format string, args ...any) {
	sh.remember(screen.Plain(fmt.Sprintf(format, args...)))
}

func (sh *show) remember(text string) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.recent = append(sh.recent, sh.clock()+"  "+text)
	if n := len(sh.recent); n > recentMost {
		sh.recent = sh.recent[n-recentMost:]
	}
}

func (sh *show) plain(text string) {
	if sh.w != nil && sh.live == nil {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		_, _ = fmt.Fprintln(sh.w, sh.clock()+"  "+text) // the reader may have gone
	}
}

func (sh *show) clock() string { return fmt.Sprintf("%5.1fs", time.Since(sh.begun).Seconds()) }

// shown are the parts that have a line of their own.
var shown = []string{partMail, partBulk, partUrgent, partWebhooks, partInvoice, partCrash, partPhotos}

func (sh *show) paint(st supervise.State) {
	sh.mu.Lock()
	acts, recent := sh.acts, append([]string(nil), sh.recent...)
	stages := make([]stage, len(shown))
	for i, part := range shown {
		stages[i] = acts[part]
	}
	sh.mu.Unlock()
	head := fmt.Sprintf("%s  broker %s · %s · %s", sh.style.Bold("drover demo"), sh.d.s.URL(),
		screen.Some(len(st.Processes), "process", "processes"), strings.TrimSpace(sh.clock()))
	lines := []string{head, ""}
	for i, part := range shown {
		sign, text := sh.style.Dim("·"), ""
		switch stages[i] {
		case waiting:
			text = sh.style.Dim(sh.d.intention(part))
		case playing:
			sign, text = sh.style.Busy("▶"), sh.d.bar(part)+sh.d.progress(part)
		case played:
			sign, text = sh.style.Good("✔"), sh.d.progress(part)
		}
		lines = append(lines, fmt.Sprintf("%s %-9s %s", sign, part, text))
	}
	lines = append(append(lines, ""), st.LaneLines(sh.style)...)
	lines = append(lines, "")
	for _, r := range recent {
		lines = append(lines, sh.style.Dim(r))
	}
	sh.live.Paint(lines)
}

// intention is what a part is going to do.
func (d *demo) intention(part string) string {
	switch part {
	case partMail:
		return fmt.Sprintf("%d mails, %d of them put off once, and one to nobody", d.size(40)+d.size(3)+1, d.size(3))
	case partBulk:
		return screen.Count(d.size(2000)) + " mails of class bulk in one go"
	case partUrgent:
		return "password resets meanwhile, one every 30 ms"
	case partWebhooks:
		return fmt.Sprintf("%d deliveries to a receiver that fails, hangs and comes back", d.size(100))
	case partInvoice:
		return "a delivery that spends its attempts, dies, and is redriven"
	case partCrash:
		return fmt.Sprintf("a task that kills its process, beside %d that do not", d.beside())
	case partPhotos:
		return fmt.Sprintf("%d photos in processes of their own, and one of 1 GiB with a cap of %d MiB", usualPhotos, photoCap>>20)
	}
	return ""
}

// bar is how far a part is, for those of many tasks.
func (d *demo) bar(part string) string {
	if part != partMail && part != partBulk && part != partWebhooks {
		return ""
	}
	t := d.ledger.tally(part)
	whole := t.Published
	if part == partWebhooks {
		whole = d.size(100)
	}
	return screen.Bar(t.Done+t.died(), whole, barWidth) + "  "
}

// progress is how a part is going, or went.
func (d *demo) progress(part string) string {
	t := d.ledger.tally(part)
	switch part {
	case partMail:
		return fmt.Sprintf("%s of %s mails taken in%s%s", screen.Count(t.Done), screen.Count(t.Published), again(t), dead(t))
	case partBulk:
		return fmt.Sprintf("%s of %s mails taken in%s%s%s", screen.Count(t.Done), screen.Count(t.Published), d.rate(part, t.Done), again(t), dead(t))
	case partUrgent:
		w := d.ledger.wait(part)
		return fmt.Sprintf("%s of %s taken in · start p50 %s, p99 %s, max %s%s%s",
			screen.Count(t.Done), screen.Count(t.Published), screen.Span(w.P50), screen.Span(w.P99), screen.Span(w.Max), again(t), dead(t))
	case partWebhooks:
		text := fmt.Sprintf("%s of %s delivered%s%s%s%s", screen.Count(t.Done), screen.Count(t.Published), again(t), parked(t), d.leftAlone(), dead(t))
		switch mood := d.hooks.Mood("/orders"); {
		case mood.Hang:
			text += " · receiver hangs"
		case mood.Status != 0:
			text += fmt.Sprintf(" · receiver answers %d", mood.Status)
		}
		return text
	case partInvoice:
		return d.invoiceStory(t)
	case partCrash:
		return d.crashStory(t)
	case partPhotos:
		return fmt.Sprintf("%d of %d done%s%s", t.Done, t.Published, again(t), dead(t))
	}
	return ""
}

func (d *demo) invoiceStory(t Tally) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case len(d.redriven) > 0:
		r := d.redriven[0]
		return fmt.Sprintf("died after %d attempts; redriven once /billing was mended; delivered", r.Attempts)
	case t.died() > 0:
		return "dead: it has spent its attempts"
	}
	return fmt.Sprintf("/billing answers 500%s", again(t))
}

func (d *demo) crashStory(t Tally) string {
	own, alone := d.deaths()
	beside := d.ledger.tally(partWork)
	text := "killed " + screen.Some(own, "process", "processes")
	if alone > 0 {
		text += ", then a child"
	}
	if t.died() > 0 {
		text += ": dead"
	}
	return text + fmt.Sprintf(" · %d of %d beside it done", beside.Done, beside.Published)
}

// rate is how many a second, since the part began.
func (d *demo) rate(part string, n int) string {
	d.show.mu.Lock()
	took, since := d.show.took[part], d.show.since[part]
	d.show.mu.Unlock()
	if took == 0 {
		took = time.Since(since)
	}
	if n == 0 || took <= 0 {
		return ""
	}
	return " · " + screen.Count(int(float64(n)/took.Seconds())) + "/s"
}

func again(t Tally) string {
	if t.Retries == 0 {
		return ""
	}
	return " · " + screen.Some(t.Retries, "retry", "retries")
}

func parked(t Tally) string {
	if t.Parked == 0 {
		return ""
	}
	return " · parked " + screen.Some(t.Parked, "time", "times")
}

func dead(t Tally) string {
	if t.died() == 0 {
		return ""
	}
	return " · dead: " + reasons(t.Dead)
}

// reasons are counts by reason, in the order of the path.
func reasons(by map[task.Reason]int) string {
	var out []string
	for _, r := range []task.Reason{task.Failed, task.Permanent, task.CrashLoop, task.Undecodable, task.UnknownKind, task.Expired} {
		if n := by[r]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, r))
		}
	}
	return strings.Join(out, ", ")
}

// short is the end of an error that says what happened, without what led there and
// what is in brackets after it, in about so many bytes.
func short(text string, most int) string {
	text = screen.Plain(text)
	if i := strings.LastIndex(text, " ("); i > 0 && len(text) > most && strings.HasSuffix(text, ")") {
		text = text[:i]
	}
	for len(text) > most {
		_, rest, ok := strings.Cut(text, ": ")
		if !ok {
			break
		}
		text = rest
	}
	return text
}
