package worker

import "time"

// The lane of a fair class takes from its sources in turn, so that a tenant with
// many tasks delays another by one task and not by all of them, as long as they do
// not share a partition. Two things make it so. A free slot takes from the next
// source that has something waiting. And what waits here is little, and of each
// source about as much: what one source may have, waiting or asked for, is its
// share of what the lane asks for.
//
// A source that has tasks is asked for those that it has, and answers at once. One
// that was seen to have none is asked to tell when there is one, and only one: that
// request may outlive the room that there was when it was sent. So at most one task
// of each source waits for a slot although none is free. A lane without room asks
// nobody.

const (
	listenExpiry = 5 * time.Second        // of a request to an empty source: there are many of those, and a drain waits for them
	emptyFor     = 100 * time.Millisecond // that a source was seen to be empty says nothing after that
)

// head is the delivery that is next for a slot, or nil. l.mu is held.
func (l *lane) head() *delivery {
	for l.next == nil && l.waiting > 0 {
		s := l.sources[l.turn]
		if l.turn++; l.turn == len(l.sources) {
			l.turn = 0
		}
		l.next = s.waiting.take()
	}
	return l.next
}

// wantInTurn picks one source and what to ask it for. Whoever sends that calls
// again, until nothing is due. l.mu is held.
func (l *lane) wantInTurn(now time.Time, target int) demand {
	if l.held.n >= target {
		return demand{}
	}
	filling, live := 0, 0
	for _, s := range l.sources {
		n, listens := s.asked()
		filling += n // what comes of listening is beyond the room, and next to nothing
		if !listens {
			live++
		}
	}
	room := l.room(target, filling)
	if room <= 0 || live == 0 {
		return demand{}
	}
	share := max(1, target/live)
	most := share
	if l.pace.ahead == 0 { // each is for a slot of its own, so who is asked for more has more turns
		most = max(1, room/live)
	}
	for i := range l.sources {
		at := (l.asks + i) % len(l.sources)
		s := l.sources[at]
		p := s.free(now)
		filling, listens := s.asked()
		if p == nil || listens {
			continue
		}
		ask := demand{pull: p, n: 1, how: listen}
		if now.Sub(s.empty) >= emptyFor {
			stock := s.waiting.n + filling
			ask.n, ask.how = min(share-stock, room, most), fill
			if ask.n <= 0 || stock > 0 && ask.n < share/2 { // a request for few costs as much
				continue
			}
		}
		l.asks = (at + 1) % len(l.sources)
		return ask.made(now)
	}
	return demand{}
}

// asked is how many of those that the source has are on their way, and whether it is
// to tell when it has something. l.mu is held.
func (s *source) asked() (filling int, listens bool) {
	for i := range s.pulls {
		switch p := &s.pulls[i]; {
		case p.left == 0:
		case p.how == listen:
			listens = true
		default:
			filling += p.left
		}
	}
	return filling, listens
}
