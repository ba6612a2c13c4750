package worker

import (
	"errors"
	"fmt"
	"strings"
)

// Weight is how many slots of its class a run of this kind takes, when one slot says
// too little of what it needs: with 4 slots and reports of 2 GB each, Weight(2) lets
// no more than two reports run in a process. Without Weight it is 1.
//
// A task starts when that many slots of its lane are free, and has all of them until
// its handler returns. Tasks start in the order in which they were taken: none passes
// a heavy one that waits for its slots, so it waits for no more than the tasks that run
// already, and meanwhile the slots that it waits for stand idle. A process takes no
// more tasks from the broker than can start if all of them are heavy, or one.
//
// In a lane with fewer slots, such as that of the retries, a task takes all of them,
// and runs alone. A weight above the slots of every class that is served is an error
// from Run. Live tasks and retries have slots of their own: together they can take as
// much as both have.
func Weight(slots int) HandlerOption {
	return handlerOption(func(k *kind) error {
		if slots < 1 {
			return fmt.Errorf("weight %d: want 1 or more slots", slots)
		}
		if k.weight > 0 {
			return errors.New("weight: given twice")
		}
		k.weight = slots
		return nil
	})
}

// checkWeight returns an error when no class has as many slots as a run takes.
func (w *Worker) checkWeight(k *kind) error {
	most := 0
	for _, c := range w.classes {
		most = max(most, c.Slots)
	}
	if k.weight > most {
		return fmt.Errorf("handle %s: weight %d is above the slots of every class it is served in (%d): such a task could never start", k.name, k.weight, most)
	}
	return nil
}

// load is what a lane knows of the weights of its tasks. lane.mu guards all but
// heaviest.
type load struct {
	heaviest int // weight of the heaviest kind; 0 when all weigh 1: then nothing here is counted
	running  int // slots that tasks take, those of abandoned handlers included
	leaked   int // slots that abandoned handlers take
	held     int // slots that all that is held would take
}

// newLoad is the load of a lane with this many slots.
func (w *Worker) newLoad(slots int) load {
	heaviest := 1
	for _, k := range w.kinds {
		heaviest = max(heaviest, min(k.weight, slots))
	}
	if heaviest == 1 {
		return load{}
	}
	return load{heaviest: heaviest}
}

// weigh returns how many slots the task of a message takes, by its subject:
//
//	tasks.<class>.<service>.<action>[.<tenant>]
//	retry.ready.<class>.<service>.<action>.<id>
//
// An action that is not its own token has no handler, so what it weighs is of no
// matter.
func (l *lane) weigh(subject string) int {
	skip := 3
	if l.kind == retryLane {
		skip = 4
	}
	for range skip {
		_, subject, _ = strings.Cut(subject, ".")
	}
	action, _, _ := strings.Cut(subject, ".")
	k := l.w.kinds[action]
	if k == nil {
		return 1
	}
	return max(1, min(k.weight, l.slots))
}

// startable reports whether there is a delivery that waits, and slots enough for it.
// l.mu is held.
func (l *lane) startable() bool {
	return l.head() != nil && (l.load.heaviest == 0 || l.fits())
}

// fits reports whether the next delivery may start. When nothing runs but what is
// leaked it may: it could wait for ever. A drain takes all, because it runs none.
// l.mu is held.
func (l *lane) fits() bool {
	return l.load.running+int(l.next.weight) <= l.slots || l.load.running == l.load.leaked || l.draining.Load()
}

// roomForHeavy is how many deliveries a lane with heavy kinds asks for: as many as can
// start if all are of the heaviest kind, and else one, because what the next one weighs
// is known when it is here: if it has to wait, nothing is free until it has started.
// Nothing is pulled ahead: that the last ones were quick says nothing of a heavy one.
// l.mu is held.
func (l *lane) roomForHeavy(outstanding int) int {
	free := l.slots - l.load.leaked - l.load.held
	n := free/l.load.heaviest - outstanding
	if n < 1 && free > 0 && outstanding == 0 {
		n = 1
	}
	return n
}

// taken is how many slots the tasks that run take, leaked ones not counted. l.mu is
// held.
func (l *lane) taken() int {
	if l.load.heaviest == 0 {
		return l.running
	}
	return l.load.running - l.load.leaked
}
