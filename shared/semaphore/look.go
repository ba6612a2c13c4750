package semaphore

import "time"

// Due reports whether it is time to read the record, and to call Next with it: once
// at the start, to see that it can be read, and then not until there is something to
// do for this process.
func (s *Semaphore) Due(now time.Time) bool {
	wants := s.wants(now)
	since := now.Sub(s.looked)
	switch {
	case s.looked.IsZero(), s.demand.waiting > 0, s.held > s.quota && s.held > s.used:
		return true
	case s.held == 0 && wants == 0 && s.recorded == (Holder{}):
		return false
	case s.closed:
		return true
	case wants > s.held || s.recorded.Held+s.recorded.Wanted > 0 && wants == 0:
		return since >= hurry
	}
	return since >= fresh
}

// Next looks at the record, as it is in the bucket now, and returns what is to be
// written over it, if anything. What it gives up is not used from here on. When the
// write was answered, [Semaphore.Written] is to be told.
func (s *Semaphore) Next(r Record, now time.Time) (Record, bool) {
	if s.held > 0 && !s.good(now) {
		s.Lose()
	}
	r.Resource = s.config.Resource
	me, known := r.of(s.config.Process)
	s.recorded = me
	s.see(r, now)
	claims, others := s.claims(r)
	wants := s.wants(now)
	room := max(0, s.least-others)
	if !known && s.held > room { // somebody took them over, or another bucket is there
		s.Lose()
	}
	due, turns := share(s.least, append(claims, claim{s.config.Process, wants, s.held, me.Served}))
	target := due[s.config.Process]
	short := false
	for _, c := range claims {
		short = short || c.want > c.held
	}
	s.overlook(r, room-s.held, claims, due, now)
	if turns && target < s.held && now.Sub(s.gained) < quantum {
		target = s.held
	}
	s.looked = now

	held := s.held
	switch {
	case target > held:
		held = max(held, min(target, room))
	case target < held:
		held = max(target, min(held, s.used))
	}
	s.due = target
	if held <= s.held { // nothing to wait for
		s.held, s.quota = held, min(held, target)
	}
	s.quota = min(s.quota, target)
	s.full = wants > min(held, target)
	next := Holder{
		Process: s.config.Process, Service: s.config.Service, Cap: s.config.Cap, Held: held, Wanted: wants,
		Lease: s.config.Lease, Beat: s.beat + 1, Served: me.Served, At: now.UTC().Round(0),
	}
	changed := held != me.Held || held > s.held || held+wants == 0 && known
	beat := held+wants > 0 && now.Sub(s.confirmed) >= s.config.Lease/heartbeats
	told := wants != me.Wanted && (short || s.full || !known) && now.Sub(s.wrote) >= hurry
	if !changed && !beat && !told {
		return Record{}, false
	}
	s.beat++
	s.wrote = now
	out := r.with(next, s.seen)
	if held > me.Held {
		out.Turn++
		for i := range out.Holders {
			if out.Holders[i].Process == next.Process {
				out.Holders[i].Served = out.Turn
			}
		}
	}
	return out, true
}

// Written takes note that what Next returned is in the bucket; sent is when it was
// on its way, at the earliest.
func (s *Semaphore) Written(r Record, sent time.Time) {
	me, known := r.of(s.config.Process)
	s.recorded = me
	s.confirmed = sent
	if !known {
		return
	}
	if me.Held > s.held {
		s.gained = sent
		if s.held == 0 { // it is for a task that is parked: which is given its time to come
			s.demand.uses(max(s.used, 1), sent)
			s.parked.latest = time.Time{}
		}
	}
	if me.Held >= s.held {
		s.held, s.quota = me.Held, min(me.Held, s.due)
	}
}

// wants is how many permits this process has use for.
func (s *Semaphore) wants(now time.Time) int {
	if s.closed {
		return s.used
	}
	n := max(s.used, min(s.config.Most, s.demand.of(s.used, now)))
	if n == 0 && now.Before(s.parked.latest.Add(fresh)) {
		return 1 // so that the others leave it one, or it would never come to it
	}
	return n
}

// see takes note of the others' beats, and of the cap that holds.
func (s *Semaphore) see(r Record, now time.Time) {
	s.least = s.config.Cap
	seen := map[string]sighting{}
	for _, h := range r.Holders {
		if h.Process == s.config.Process {
			continue
		}
		last, ok := s.seen[h.Process]
		switch {
		case !ok || last.beat != h.Beat:
			last = sighting{beat: h.Beat, at: now}
		case now.Sub(last.at) >= h.Lease:
			continue // it is gone
		}
		seen[h.Process] = last
		if h.Cap > 0 {
			s.least = min(s.least, h.Cap)
		}
	}
	s.seen = seen
}

// claims are those of the others, and how many permits they hold.
func (s *Semaphore) claims(r Record) (claims []claim, held int) {
	for _, h := range r.Holders {
		last, ok := s.seen[h.Process]
		if !ok {
			continue
		}
		if last.absent {
			h.Wanted = min(h.Wanted, h.Held)
		}
		h.Held = max(0, h.Held)
		held += h.Held
		claims = append(claims, claim{h.Process, h.Wanted, h.Held, h.Served})
	}
	return claims, held
}

// overlook finds who has not taken what was free and due to it: it may be gone, and
// is not waited for.
func (s *Semaphore) overlook(r Record, room int, claims []claim, due map[string]int, now time.Time) {
	if s.room <= 0 || room <= 0 || s.roomTurn != r.Turn {
		s.room, s.roomTurn, s.roomAt = room, r.Turn, now
		return
	}
	s.room = room
	if now.Sub(s.roomAt) < handOver {
		return
	}
	for _, c := range claims {
		if due[c.process] > c.held {
			last := s.seen[c.process]
			last.absent = true
			s.seen[c.process] = last
		}
	}
}
