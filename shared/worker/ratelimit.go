package worker

import (
	"errors"
	"fmt"
	"time"

	"github.com/droverhq/drover/shared/quota"
	"github.com/droverhq/drover/shared/ratelimit"
	"github.com/droverhq/drover/shared/task"
)

// RateLimit holds the tasks of a kind to p, for each key and over all processes of
// the service, as package quota says. key names what is limited from the arguments,
// such as the account at an API; "" means not limited. It is called for every task
// before its handler, and should be quick. Kinds of a service whose keys are the
// same share a limit. A kind has one RateLimit; its [Breaker] is asked first.
//
// No time of length p.Per sees more than p.Limit starts of handlers, whatever
// processes die, stand still, or cannot reach the broker. Starts are what counts: a
// handler that waits before it calls, and a task that runs in a process of its own,
// may call a little later, and so a little closer to the next.
//
// A task whose key is used up waits for its turn in its slot, at most 0.4 s in
// half of a lane's slots and 0.1 s in the others, or else on a timer of RETRY with
// reason "limit", burns no attempt, and comes back at about its turn; other tasks
// flow. Waiting has no end of its own: a deadline of the task ends it. While the
// bucket LIMITS is out of reach no limited task starts beyond what was taken before.
func RateLimit[T task.Args](p ratelimit.Policy, key func(args T) string) HandlerOption {
	return handlerOption(func(k *kind) error {
		if key == nil {
			return errors.New("rate limit: it needs a function that names the key")
		}
		if _, ok := k.args.(T); !ok {
			var zero T
			return fmt.Errorf("rate limit: its function takes %T, the handler %T", zero, k.args)
		}
		if k.limiting != nil {
			return errors.New("rate limit: given twice")
		}
		k.limiting = &limiting{policy: p, key: func(t *Task) (name string, err error) {
			defer func() { // as invoke does; it is the task's fault
				if v := recover(); v != nil {
					err = &PanicError{Value: v}
				}
			}()
			args, ok := t.args.(T)
			if !ok { // no breaker has asked for them
				if err := task.Unmarshal(t.Body, &args); err != nil {
					return "", &undecodableError{err}
				}
				t.args = args
			}
			return key(args), nil
		}}
		return p.Validate()
	})
}

// limiting is what a kind says of its rate.
type limiting struct {
	policy ratelimit.Policy
	key    func(*Task) (string, error)
}

const moment = 100 * time.Millisecond // for which any slot may wait

// startLimits shares the rate limits of this worker until end is called.
func (w *Worker) startLimits() (end func(), err error) {
	wanted := false
	for _, k := range w.kinds {
		wanted = wanted || k.limiting != nil
	}
	if !wanted {
		return func() {}, nil
	}
	if w.quotas, err = quota.New(w.js, w.service, w.log, w.meter); err != nil {
		return nil, err
	}
	return beside(w.quotas.Run), nil
}

// admit asks the limit of the task's key whether it may run, and may wait a little.
func (l *lane) admit(d *delivery, st *task.State) (verdict, bool) {
	k := d.run.kind
	key, err := k.limiting.key(&d.task)
	if err != nil {
		return d.run.verdict(l, d, err), false
	}
	if key == "" {
		return verdict{}, true
	}
	ask := quota.Ask{Policy: k.limiting.policy, Key: key, Back: st.Reason == task.Limited, Wait: moment}
	if int(l.limited.Add(1)) <= l.slots/2 {
		ask.Wait = quota.Patience
	}
	a := l.w.quotas.Take(ask)
	l.limited.Add(-1)
	if !a.Admitted {
		return verdict{outcome: again, reason: task.Limited, delay: max(a.Delay-timerLate, time.Millisecond)}, false
	}
	d.run.slot = &a
	return verdict{}, true
}

const timerLate = 125 * time.Millisecond // by which timers of the broker go off on average

// errLate is of a task that did not start before its slot of the limit was over.
var errLate = errors.New("the process stood still before the task could start: its slot of the rate limit is over")

const lateDelay = 250 * time.Millisecond
