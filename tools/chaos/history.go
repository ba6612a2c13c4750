package chaos

import (
	"cmp"
	"slices"
	"time"
)

// Run is one run of a handler.
type Run struct {
	ID         string
	Generation int
	Attempt    int // failed attempts before it, as its handler was told
	Proc       string
	PID, PPID  int
	Start, End int64 // Mono; End is 0 when its handler never returned
	Dead       int64 // Mono: when its process ended without its handler returning; 0 if it is not known
	Verdict    string
	Delay      int64 // ns, of a put-off
	Child      bool  // it ran alone in a child of its worker
}

// alive reports whether the run was not over at t, as far as the ledger knows.
func (r *Run) alive(t int64) bool { return r.over() == 0 || r.over() > t }

// over is when the run ended in one way or another, or 0.
func (r *Run) over() int64 { return cmp.Or(r.End, r.Dead) }

// in reports whether the process with this id ran r, or is the parent of the
// child that did.
func (r *Run) in(pid int) bool { return r.PID == pid || r.PPID == pid }

// fault is something that the driver, or a task that kills its process, broke.
type fault struct {
	name   string
	target string // name of a process or broker
	pid    int    // the one process that it hit; 0 means whatever the target was
	begin  int64
	over   int64
}

// story is all that happened to one task.
type story struct {
	id, plan  string
	published What // the last the publisher heard
	intended  int64
	answered  int64 // 0 without an answer
	runs      []*Run
	letters   []Event
	left      []Event
	timers    []Event
	bodies    int
}

// history is a ledger, read by what it is about.
type history struct {
	seed    uint64
	limits  Limits
	tasks   map[string]*story
	faults  []fault
	crashes []Event // exits that nobody caused
	ends    []int64 // of runs that were done
	stored  []int64
	quiet   bool
	last    int64
}

func newHistory(l *Ledger) *history {
	h := &history{tasks: map[string]*story{}}
	r := reader{history: h, runs: map[string]*Run{}, open: map[int]*fault{}, exits: map[int]int64{}, dying: map[int]int64{}, ups: map[int]bool{}}
	for i := range l.Events {
		r.read(&l.Events[i])
	}
	r.finish()
	return h
}

// reader joins the events that belong together.
type reader struct {
	*history
	runs  map[string]*Run
	order []*Run
	open  map[int]*fault
	exits map[int]int64 // by pid
	dying map[int]int64
	codes []Event
	ups   map[int]bool // processes that the driver started
}

func (r *reader) task(id string) *story {
	s := r.tasks[id]
	if s == nil {
		s = &story{id: id}
		r.tasks[id] = s
	}
	return s
}

func (r *reader) read(e *Event) {
	r.last = e.Mono
	switch e.What {
	case Setup:
		r.seed, r.limits = e.Seed, *e.Limits
	case Intend:
		s := r.task(e.ID)
		s.plan, s.intended = e.Plan, e.Mono
	case Stored, Refused, Unknown:
		s := r.task(e.ID)
		s.published, s.answered = e.What, e.Mono
		if e.What == Stored {
			r.stored = append(r.stored, e.Mono)
		}
	case Letter:
		s := r.task(e.ID)
		s.letters = append(s.letters, *e)
	case Left:
		s := r.task(e.ID)
		s.left = append(s.left, *e)
	case Timer:
		s := r.task(e.ID)
		s.timers = append(s.timers, *e)
	case Body:
		r.task(e.ID).bodies++
	case Quiet:
		r.quiet = true
	default:
		r.readRun(e)
	}
}

func (r *reader) readRun(e *Event) {
	switch e.What {
	case Start:
		run := &Run{
			ID: e.ID, Generation: e.Generation, Attempt: e.Attempt,
			Proc: e.Proc, PID: e.PID, PPID: e.PPID, Start: e.Mono,
		}
		r.runs[e.Run] = run
		r.order = append(r.order, run)
	case Up:
		r.ups[e.PID] = true
	case Dying:
		r.dying[e.PID] = e.Mono
	case End:
		if run := r.runs[e.Run]; run != nil {
			run.End, run.Verdict, run.Delay = e.Mono, e.Verdict, e.Delay
			if e.Verdict == Done {
				r.ends = append(r.ends, e.Mono)
			}
		}
	case Exit:
		r.exits[e.PID] = e.Mono
		r.codes = append(r.codes, *e)
	case Begin:
		r.open[e.Fault] = &fault{name: e.Name, target: e.Target, pid: e.PID, begin: e.Mono}
	case Over:
		if f := r.open[e.Fault]; f != nil {
			f.over = e.Mono
			r.faults = append(r.faults, *f)
			delete(r.open, e.Fault)
		}
	default: // told apart by read
	}
}

// finish draws what follows from all events together.
func (r *reader) finish() {
	for _, f := range r.open { // it was never mended
		f.over = r.last
		r.faults = append(r.faults, *f)
	}
	for pid, at := range r.dying { // to its neighbours it is a fault as any other
		r.faults = append(r.faults, fault{name: TaskKills, pid: pid, begin: at, over: at})
	}
	slices.SortFunc(r.faults, func(a, b fault) int { return cmp.Compare(a.begin, b.begin) })
	for _, run := range r.order {
		s := r.task(run.ID)
		s.runs = append(s.runs, run)
		run.Child = !r.ups[run.PID]
		if run.End != 0 {
			continue
		}
		run.Dead = cmp.Or(r.dying[run.PID], r.exits[run.PID])
	}
	for _, e := range r.codes {
		if e.Code != 0 && r.dying[e.PID] == 0 && !r.killed(e.PID) {
			r.crashes = append(r.crashes, e)
		}
	}
}

func (r *reader) killed(pid int) bool {
	return slices.ContainsFunc(r.faults, func(f fault) bool { return f.name == KillWorker && f.pid == pid })
}

// since is t as people read it: the time from the first publish.
func (h *history) since(t int64) time.Duration {
	first := t
	if len(h.stored) > 0 {
		first = h.stored[0]
	}
	return time.Duration(t - first).Round(time.Millisecond)
}
