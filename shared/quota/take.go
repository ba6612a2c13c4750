package quota

import "time"

// Take asks whether a task may start now. It answers from memory when it can, and
// else waits for the broker, at most half a second, and for its slot, at most a.Wait.
func (q *Quotas) Take(a Ask) Answer {
	l := q.line(a.Key)
	l.mu.Lock()
	defer l.mu.Unlock()
	var patience *time.Timer // for the bucket
	for tries := 0; ; tries++ {
		now := q.clock.now()
		l.policy, l.last = a.Policy, now.local
		slot, ok, lost := l.pop(now, min(a.Wait, Patience), a.Back)
		q.meters.lost.Add(int64(lost))
		if ok {
			q.stock(l, now)
			answer := Answer{Admitted: true, Until: now.local.Add(slot.Add(good(a.Policy, now.err)).Sub(now.at))}
			if wait := slot.Add(now.err).Sub(now.at); wait > 0 {
				l.sleep(wait)
				if answer.Late(time.Now()) { // this process stood still
					q.meters.lost.Add(1)
					continue
				}
			}
			q.meters.used.Add(1)
			return answer
		}
		if turn, ok := l.turn(now.at); ok {
			return Answer{Delay: turn.Sub(now.at)}
		}
		if q.broken.Load() {
			if q.due(now.local) {
				q.ask(l)
			}
			return l.aside(now, muchLater)
		}
		if patience == nil {
			patience = time.NewTimer(answerLimit)
			defer patience.Stop()
		}
		if tries > mostTries || !q.wait(l, a, tries, patience) {
			return l.aside(now, later)
		}
	}
}

const (
	later     = time.Second     // to come back, without a turn
	muchLater = 5 * time.Second // while the bucket is out of reach
	tired     = 16              // requests that a task waits for until it wants no slot any more
	mostTries = 20
)

// aside puts a task in line without a word to others. The next request says so.
func (l *line) aside(now reading, delay time.Duration) Answer {
	turns := l.known.Queue(l.policy, now.at, 1, delay)
	return Answer{Delay: turns.Pop().Sub(now.at)}
}

// sleep waits for d with the line unlocked.
func (l *line) sleep(d time.Duration) {
	l.mu.Unlock()
	pause(d)
	l.mu.Lock()
}

// wait joins the request that is under way, or begins one, and reports whether it
// ended in time. l.mu is held, and let go meanwhile.
func (q *Quotas) wait(l *line, a Ask, tries int, patience *time.Timer) bool {
	of := l.join(a, tries)
	done := l.flight
	if done == nil {
		done = q.ask(l)
	}
	l.mu.Unlock()
	ok := false
	select {
	case <-done:
		ok = true
	case <-patience.C:
	}
	l.mu.Lock()
	of.leave()
	return ok
}

// join counts a task among those who wait. What was taken for it others may have
// been quicker to use, or more patient: then it only wants its turn.
func (l *line) join(a Ask, tries int) *demand {
	of := &l.want[class(a)]
	if tries > 0 && l.idled || tries >= tired {
		of = &l.tired
	}
	of.n++
	of.ahead = max(of.ahead, min(a.Wait, Patience))
	return of
}

func (d *demand) leave() {
	if d.n--; d.n == 0 {
		d.ahead = 0
	}
}

// stock has slots taken before the last one is used or over, so that no task waits
// for it.
func (q *Quotas) stock(l *line, now reading) {
	if l.flight == nil && l.short(now) && !q.broken.Load() {
		q.ask(l)
	}
}

// due reports whether a bucket that was out of reach is to be tried again.
func (q *Quotas) due(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Sub(q.since) < again {
		return false
	}
	q.since = now
	return true
}
