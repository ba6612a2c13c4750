package demo

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
)

// ledger is what the world outside saw of every task: the mail server, the
// receiver, the demo's own service. What streams and workers say is compared with
// it at the end.
type ledger struct {
	mu      sync.Mutex
	tasks   []*entry
	byID    map[string]*entry
	starts  map[string]time.Time   // when it was first seen, by name or id
	ends    map[string]int         // how often it was finished, by "<id>:<generation>"
	moves   map[string]bool        // that were counted, by id of the move
	retries map[string]int         // moves to RETRY, by task id, but for those that parked counts
	parked  map[string]int         // moves to RETRY because a breaker was open, by task id
	put     map[task.Reason]int    // all moves to RETRY, by reason
	letters map[string]task.Reason // tasks that were seen to be moved to DEAD
	refused int                    // deliveries with a wrong signature
}

// entry is one task that was published.
type entry struct {
	ID   string
	Name string // for people: the recipient, the order
	Part string // of the demo
	task.Class

	Published time.Time // before the publish began
	redriven  int       // generations that were added by hand
	dead      task.Reason
}

func newLedger() *ledger {
	return &ledger{
		byID: map[string]*entry{}, starts: map[string]time.Time{}, ends: map[string]int{},
		moves: map[string]bool{}, retries: map[string]int{}, parked: map[string]int{}, put: map[task.Reason]int{}, letters: map[string]task.Reason{},
	}
}

// publish takes down a task that the broker has confirmed.
func (l *ledger) publish(r client.Receipt, part, name string, c task.Class, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &entry{ID: r.ID, Name: name, Part: part, Class: c, Published: at, dead: l.letters[r.ID]} // it may have died before we are here
	l.tasks = append(l.tasks, e)
	l.byID[r.ID] = e
}

// start takes down that a task was seen to run, by its name or id.
func (l *ledger) start(key string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first, ok := l.starts[key]; !ok || at.Before(first) {
		l.starts[key] = at
	}
}

// end takes down that a task was finished, by "<id>:<generation>".
func (l *ledger) end(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends[key]++
}

// forged takes down a delivery whose signature is wrong.
func (l *ledger) forged() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused++
}

// move takes down that a worker published a task to RETRY or DEAD. It returns what
// the message says, and false for one that was seen before or is no move.
func (l *ledger) move(m *nats.Msg) (task.State, bool) {
	id := m.Header.Get(task.HeaderMsgID)
	st, err := task.ReadState(m.Subject, m.Header, task.Stored{})
	if id == "" || err != nil {
		return st, false // a timer that fires is no move
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.moves[id] {
		return st, false
	}
	l.moves[id] = true
	if !strings.HasPrefix(m.Subject, "dead.") {
		by := l.retries
		if st.Reason == task.Circuit {
			by = l.parked
		}
		by[st.ID]++
		l.put[st.Reason]++
	}
	return st, true
}

// die takes down the dead letters that there are now, by id, in place of what
// there was before.
func (l *ledger) die(dead map[string]task.Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.tasks {
		e.dead = dead[e.ID]
	}
}

// died takes down that a task was moved to DEAD.
func (l *ledger) died(id string, why task.Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.letters[id] = why
	if e := l.byID[id]; e != nil {
		e.dead = why
	}
}

// redrive takes down that a dead letter was published again.
func (l *ledger) redrive(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byID[id]; e != nil {
		e.redriven, e.dead = e.redriven+1, ""
	}
}

// name is what people call a task.
func (l *ledger) name(id string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byID[id]; e != nil {
		return e.Name
	}
	return id
}

// done is how often the latest generation of e was finished. l.mu is held.
func (l *ledger) done(e *entry) int { return l.ends[e.ID+":"+strconv.Itoa(e.redriven)] }

// finished reports whether a task was finished in its latest generation.
func (l *ledger) finished(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.byID[id]
	return e != nil && l.done(e) > 0
}

// Tally counts the tasks of one part of the demo.
type Tally struct {
	Part      string              `json:"part"`
	Published int                 `json:"published"`
	Done      int                 `json:"done"`
	Twice     int                 `json:"twice"`   // of Done, those that were finished more than once
	Retries   int                 `json:"retries"` // moves to RETRY, but for
	Parked    int                 `json:"parked"`  // those because a breaker was open
	Dead      map[task.Reason]int `json:"dead,omitempty"`
}

// died is how many are dead.
func (t *Tally) died() (n int) {
	for _, v := range t.Dead {
		n += v
	}
	return n
}

// open is how many are neither done nor dead.
func (t *Tally) open() int { return t.Published - t.Done - t.died() }

// tally counts one part, or all of them for "".
func (l *ledger) tally(part string) Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := Tally{Part: part, Dead: map[task.Reason]int{}}
	for _, e := range l.tasks {
		if part != "" && e.Part != part {
			continue
		}
		t.Published++
		t.Retries += l.retries[e.ID]
		t.Parked += l.parked[e.ID]
		n := l.done(e)
		switch {
		case e.dead != "":
			t.Dead[e.dead]++
		case n > 0:
			t.Done++
		}
		if n > 1 {
			t.Twice++
		}
	}
	return t
}

// missing names tasks that are neither done nor dead, and those that are both.
func (l *ledger) missing() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, e := range l.tasks {
		switch n := l.done(e); {
		case n == 0 && e.dead == "":
			out = append(out, e.Part+": "+e.Name+" ("+e.ID+") is neither done nor dead")
		case n > 0 && e.dead != "":
			out = append(out, e.Part+": "+e.Name+" ("+e.ID+") is dead, and was done as well")
		}
	}
	return out
}

// Wait is how soon the tasks of one class, or of one part, started: from before
// they were published until the world outside saw them run for the first time.
type Wait struct {
	Of            string // class or part
	Count         int    // tasks
	P50, P99, Max time.Duration
}

// MarshalJSON writes durations as numbers of seconds.
func (w Wait) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{
		"of": w.Of, "count": w.Count, "p50_seconds": w.P50.Seconds(), "p99_seconds": w.P99.Seconds(), "max_seconds": w.Max.Seconds(),
	})
}

// waits are the waits by class, the most urgent first.
func (l *ledger) waits() []Wait {
	by := map[task.Class][]time.Duration{}
	l.mu.Lock()
	for _, e := range l.tasks {
		if w, ok := l.waited(e); ok {
			by[e.Class] = append(by[e.Class], w)
		}
	}
	l.mu.Unlock()
	order := []task.Class{task.Urgent, task.Default, task.Slow, task.Bulk}
	var out []Wait
	for _, c := range slices.SortedFunc(maps.Keys(by), func(a, b task.Class) int {
		return cmp.Compare(slices.Index(order, a), slices.Index(order, b))
	}) {
		out = append(out, newWait(string(c), by[c]))
	}
	return out
}

// wait is how soon the tasks of one part started.
func (l *ledger) wait(part string) Wait {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []time.Duration
	for _, e := range l.tasks {
		if w, ok := l.waited(e); ok && e.Part == part {
			all = append(all, w)
		}
	}
	return newWait(part, all)
}

// waited is how long e waited. l.mu is held.
func (l *ledger) waited(e *entry) (time.Duration, bool) {
	at, ok := l.starts[e.ID]
	if !ok {
		at, ok = l.starts[e.Name]
	}
	return max(0, at.Sub(e.Published)), ok
}

func newWait(of string, all []time.Duration) Wait {
	w := Wait{Of: of, Count: len(all)}
	if len(all) == 0 {
		return w
	}
	slices.Sort(all)
	w.P50, w.P99, w.Max = all[(len(all)-1)/2], all[(len(all)*99+99)/100-1], all[len(all)-1]
	return w
}
