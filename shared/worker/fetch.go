package worker

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/broker"
)

const (
	pullExpiry    = 2 * time.Second        // so a drain waits for at most that, and a lost pull heals
	pullHeartbeat = time.Second            // the broker allows at most half the expiry
	pullPause     = 250 * time.Millisecond // after a refusal
	maxAhead      = 1024
	aheadWithin   = 50 * time.Millisecond // what is pulled ahead should start within that
)

// how a source is asked.
type how int

const (
	both   how = iota // for what it has, and for what comes
	fill              // for what it has
	listen            // for what comes
)

// expiry is when the request ends by itself; 0 means that it is answered at once.
func (h how) expiry() time.Duration {
	switch h {
	case fill:
		return 0
	case listen:
		return listenExpiry
	case both:
	}
	return pullExpiry
}

// silent is how long nothing may be heard of a request that is outstanding.
func (h how) silent() time.Duration { return pullHeartbeat + pullHeartbeat/2 }

// lost is how long nothing may be heard until it is given up. A request that listens may
// then live on in the broker, if it is the connection that stood still: it is for one
// delivery.
func (h how) lost() time.Duration {
	if h == fill {
		return pullHeartbeat + pullHeartbeat/2
	}
	return pullExpiry + pullHeartbeat/2
}

// pull is one request for deliveries. A source has two, so that one can be filled
// while the next is under way; each has a subscription of its own, because a
// delivery does not say which request it answers. More would not fit MaxWaiting:
// a request beyond it is dropped by the broker without a word.
type pull struct {
	source *source
	inbox  string
	sub    *nats.Subscription

	// Guarded by lane.mu.
	how       how       // it asks
	serial    uint64    // of the last request, the last token of its reply subject
	left      int       // deliveries it may still bring; 0 when it is not outstanding
	heard     time.Time // when it was sent, or last brought anything
	doubt     time.Time // what arrives may have been handed out at any time since then; zero: just now
	mark      string    // the reply subject of the question whose answer ends the doubt
	marked    time.Time // when it was asked
	notBefore time.Time // do not send the next one sooner
}

// pull asks for as many deliveries as can start now, and for as many more as
// are sure to start soon.
func (l *lane) pull(now time.Time) {
	l.mu.Lock()
	next := l.want(now)
	l.mu.Unlock()
	l.request(next, now)
}

// demand is what is to be asked for; without a pull it is nothing.
type demand struct {
	pull   *pull
	serial uint64 // of pull when it was made
	n      int
	how    how
}

// made is r, counted as sent. lane.mu is held.
func (r demand) made(now time.Time) demand {
	p := r.pull
	p.how, p.left, p.heard = r.how, r.n, now
	p.serial++
	r.serial = p.serial
	return r
}

// want picks the request to send, if one is due, and counts it as sent. l.mu is
// held. A request for few is held back while another is outstanding, because each
// costs the broker about as much as a delivery.
func (l *lane) want(now time.Time) demand {
	if l.draining.Load() {
		return demand{}
	}
	target := l.slots - l.leaked + l.pace.ahead
	if len(l.sources) > 1 {
		return l.wantInTurn(now, target)
	}
	s := l.sources[0]
	outstanding := s.outstanding()
	n := l.room(target, outstanding)
	if n <= 0 || outstanding > 0 && n < target/2 {
		return demand{}
	}
	if p := s.free(now); p != nil {
		return demand{pull: p, n: n}.made(now)
	}
	return demand{}
}

// room is how many deliveries may be asked for beside those that are outstanding.
// l.mu is held.
func (l *lane) room(target, outstanding int) int {
	if l.load.heaviest > 0 {
		return l.roomForHeavy(outstanding)
	}
	return target - l.held.n - outstanding
}

// request sends what is due: one request, or in turn as many as there is room for.
func (l *lane) request(r demand, now time.Time) {
	for r.pull != nil {
		l.send(r, now)
		if r.how == both {
			return
		}
		l.mu.Lock()
		r = l.want(now)
		l.mu.Unlock()
	}
}

func (l *lane) send(r demand, now time.Time) {
	p := r.pull
	req := make([]byte, 0, 96)
	if d := r.how.expiry(); d > 0 {
		req = append(req, `{"expires":`...)
		req = strconv.AppendInt(req, int64(d), 10)
		req = append(req, `,"idle_heartbeat":`...)
		req = strconv.AppendInt(req, int64(pullHeartbeat), 10)
	} else {
		req = append(req, `{"no_wait":true`...)
	}
	req = append(req, `,"batch":`...)
	req = strconv.AppendInt(req, int64(r.n), 10)
	req = append(req, '}')
	reply := p.inbox + strconv.FormatUint(r.serial, 10)
	if err := l.w.nc.PublishRequest(broker.API(l.w.js, "CONSUMER.MSG.NEXT."+l.stream+"."+p.source.durable), reply, req); err != nil {
		l.mu.Lock()
		if p.serial == r.serial {
			p.left = 0
		}
		p.notBefore = now.Add(pullPause) // not connected: the keeper tries again
		l.checkQuiet()
		l.mu.Unlock()
	}
}

// arrive takes what the broker sends for a pull: a delivery, or its status.
func (l *lane) arrive(p *pull, m *nats.Msg) {
	now := time.Now()
	if m.Reply == "" {
		l.answered(p, m, now)
		return
	}
	d := &delivery{msg: m}
	if !d.readReply() {
		l.report("read a delivery", fmt.Errorf("%q is not the reply subject of a JetStream message", m.Reply)) // nothing to settle
		return
	}
	if l.load.heaviest > 0 {
		d.weight = int32(l.weigh(m.Subject))
	}
	l.mu.Lock()
	p.listen(now)
	d.confirmed = now
	if !p.doubt.IsZero() {
		d.confirmed = p.doubt
	}
	d.extended = d.confirmed
	s := p.source
	delete(l.trouble, s.pulling)
	if p.left > 0 {
		p.left--
		l.checkQuiet()
	}
	if s.taken++; d.last {
		s.empty = now
	}
	l.held.add(d)
	l.load.held += int(d.weight)
	s.waiting.add(d)
	l.waiting++
	l.wake()
	next := l.want(now)
	l.mu.Unlock()
	l.request(next, now)
}

// answered handles the status that ends a pull, or keeps it alive.
func (l *lane) answered(p *pull, m *nats.Msg, now time.Time) {
	status, text := m.Header.Get("Status"), m.Header.Get("Description")
	l.mu.Lock()
	if m.Subject == p.mark { // whatever was on its way before it has arrived
		p.doubt, p.mark = time.Time{}, ""
		next := l.want(now)
		l.mu.Unlock()
		l.request(next, now)
		return
	}
	if m.Subject != p.inbox+strconv.FormatUint(p.serial, 10) || p.left == 0 { // of an earlier request
		l.mu.Unlock()
		return
	}
	p.listen(now)
	if status == "100" { // idle heartbeat
		l.mu.Unlock()
		return
	}
	p.left = 0
	l.checkQuiet()
	switch status {
	case "404", "408": // expired with nothing more to bring
		delete(l.trouble, p.source.pulling)
		p.source.empty = now
	default:
		p.notBefore = now.Add(pullPause)
		if status == "503" || text == "Consumer Deleted" {
			l.trouble[p.source.pulling] = fmt.Errorf("%w in %s, or it has no leader now", ErrNotBound, l.stream)
		}
	}
	next := l.want(now)
	l.mu.Unlock()
	l.request(next, now)
}

// readReply reads what the reply subject says of a delivery: how often it was
// delivered, its sequence, when it was stored, and whether others wait. Msg.Metadata
// reads the same, and allocates (BenchmarkReadReply):
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.….<pending>[.<token>]
func (d *delivery) readReply() bool {
	reply := d.msg.Reply
	n := strings.Count(reply, ".")
	if n != 8 && (n < 10 || n > 11) {
		return false
	}
	skip := 4 // tokens before <delivered>
	if n >= 10 {
		skip = 6
	}
	for range skip {
		reply = reply[strings.IndexByte(reply, '.')+1:]
	}
	var fields [4]int64
	for i := range fields {
		digits := strings.IndexByte(reply, '.')
		if digits < 1 || digits > 19 {
			return false
		}
		for _, c := range []byte(reply[:digits]) {
			if c < '0' || c > '9' {
				return false
			}
			fields[i] = fields[i]*10 + int64(c-'0')
		}
		if fields[i] < 0 { // more than an int64 holds
			return false
		}
		reply = reply[digits+1:]
	}
	d.delivered, d.sequence, d.storedAt = int(fields[0]), uint64(fields[1]), fields[3]
	d.last = reply == "0" || strings.HasPrefix(reply, "0.")
	return true
}

// listen notes that p is heard of. When that was due long before, this process or
// its connection has stood still: what arrives now may have been handed out
// meanwhile, and after ack-wait to another worker, so its lease runs from when p
// was last heard of. lane.mu is held.
func (p *pull) listen(now time.Time) {
	if p.left > 0 && p.doubt.IsZero() && now.Sub(p.heard) > p.how.silent() {
		p.doubt = p.heard
	}
	p.heard = now
}

// mark is a question about a pull's consumer, to be answered on its own inbox.
type mark struct {
	pull  *pull
	reply string
}

// marks returns the questions that are to be asked now to end a doubt: their answers
// come after all that is on its way. Until then the pull asks for nothing, because what
// it brought would be late too. l.mu is held.
func (l *lane) marks(now time.Time) (due []mark) {
	l.allPulls(func(p *pull) {
		if p.doubt.IsZero() || p.mark != "" && now.Sub(p.marked) < pullHeartbeat {
			return
		}
		if p.mark == "" {
			l.serial++
			p.mark = p.inbox + "mark" + strconv.FormatUint(l.serial, 10)
		} else {
			l.trouble[p.source.pulling] = errSilent
		}
		p.marked = now
		due = append(due, mark{p, p.mark})
	})
	return due
}

func (l *lane) ask(m mark) {
	if err := l.w.nc.PublishRequest(broker.API(l.w.js, "CONSUMER.INFO."+l.stream+"."+m.pull.source.durable), m.reply, nil); err != nil {
		l.mu.Lock()
		if m.pull.mark == m.reply {
			m.pull.mark = "" // not connected: the keeper asks again
			l.trouble[m.pull.source.pulling] = errSilent
		}
		l.mu.Unlock()
	}
}

const pulling = "pull tasks"

var errSilent = errors.New("the broker does not answer")

// checkPulls gives up pulls that the broker has forgotten, as it does when the
// connection or the leader changes. l.mu is held.
func (l *lane) checkPulls(now time.Time) {
	l.allPulls(func(p *pull) {
		if p.left == 0 || now.Sub(p.heard) <= p.how.lost() {
			return
		}
		p.listen(now)
		p.left = 0
		if p.how == fill { // a consumer that may hand out no more does not answer either: ask it in the way that tells
			p.source.empty = now
		} else {
			l.trouble[p.source.pulling] = errSilent
		}
		l.checkQuiet()
	})
}

// isServed reports whether the broker answers, for one source at least. l.mu is held.
func (l *lane) isServed() bool {
	for _, s := range l.sources {
		if l.trouble[s.pulling] == nil {
			return true
		}
	}
	return false
}

// checkQuiet tells drain when no pull is outstanding. l.mu is held.
func (l *lane) checkQuiet() {
	if !l.draining.Load() {
		return
	}
	for _, s := range l.sources {
		if s.outstanding() > 0 {
			return
		}
	}
	select {
	case <-l.quiet:
	default:
		close(l.quiet)
	}
}

// pace decides how many deliveries to hold beyond those that can start now: as
// many as a slot gets through in 50 ms, by the 99th percentile of its last runs.
// So tiny tasks do not wait for the network, and tasks that take time are left to
// whoever is free. lane.mu guards it.
type pace struct {
	ahead int
	runs  [256]time.Duration
	n     int // runs seen since the last slow one
}

const paceEvery = 64 // runs between two looks at the percentile: sorting costs 5 µs

// add records how long a run took.
func (p *pace) add(d time.Duration) {
	if d > aheadWithin {
		p.ahead, p.n = 0, 0
		return
	}
	p.runs[p.n%len(p.runs)] = d
	p.n++
	if p.n%paceEvery != 0 {
		return
	}
	sorted, have := p.runs, min(p.n, len(p.runs)) // a copy of the array
	slices.Sort(sorted[:have])
	p99 := max(sorted[have*99/100], time.Microsecond)
	p.ahead = min(maxAhead, int(aheadWithin/p99))
}
