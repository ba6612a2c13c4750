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
	pullExpiry    = 2 * time.Second // so a drain waits for at most that, and a lost pull heals
	pullHeartbeat = time.Second     // the broker allows at most half the expiry
	pullLost      = pullExpiry + pullHeartbeat/2
	pullSilent    = pullHeartbeat + pullHeartbeat/2
	pullPause     = 250 * time.Millisecond // after a refusal
	maxAhead      = 1024
	aheadWithin   = 50 * time.Millisecond // what is pulled ahead should start within that
)

// pull is one request for deliveries. A lane has two, so that one can be filled
// while the next is under way; each has a subscription of its own, because a
// delivery does not say which request it answers. More would not fit MaxWaiting:
// a request beyond it is dropped by the broker without a word.
type pull struct {
	inbox string
	sub   *nats.Subscription

	// Guarded by lane.mu.
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
}

// want picks the request to send, if one is due, and counts it as sent. l.mu is
// held. A request for few is held back while another is outstanding, because each
// costs the broker about as much as a delivery.
func (l *lane) want(now time.Time) demand {
	if l.draining.Load() {
		return demand{}
	}
	target := l.slots - l.leaked + l.pace.ahead
	outstanding := l.pulls[0].left + l.pulls[1].left
	n := target - l.held.n - outstanding
	if l.load.heaviest > 0 {
		n = l.wantHeavy(outstanding)
	}
	if n <= 0 || outstanding > 0 && n < target/2 {
		return demand{}
	}
	for i := range l.pulls {
		if p := &l.pulls[i]; p.left == 0 && !now.Before(p.notBefore) {
			p.left, p.heard = n, now
			p.serial++
			return demand{p, p.serial, n}
		}
	}
	return demand{}
}

func (l *lane) request(r demand, now time.Time) {
	p := r.pull
	if p == nil {
		return
	}
	req := make([]byte, 0, 96)
	req = append(req, `{"expires":`...)
	req = strconv.AppendInt(req, int64(pullExpiry), 10)
	req = append(req, `,"idle_heartbeat":`...)
	req = strconv.AppendInt(req, int64(pullHeartbeat), 10)
	req = append(req, `,"batch":`...)
	req = strconv.AppendInt(req, int64(r.n), 10)
	req = append(req, '}')
	reply := p.inbox + strconv.FormatUint(r.serial, 10)
	if err := l.w.nc.PublishRequest(broker.API(l.w.js, "CONSUMER.MSG.NEXT."+l.stream+"."+l.durable), reply, req); err != nil {
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
	delete(l.trouble, pulling)
	if p.left > 0 {
		p.left--
		l.checkQuiet()
	}
	l.held.add(d)
	l.load.held += int(d.weight)
	if l.next == nil {
		l.next = d
	}
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
		delete(l.trouble, pulling)
	default:
		p.notBefore = now.Add(pullPause)
		if status == "503" || text == "Consumer Deleted" {
			l.trouble[pulling] = fmt.Errorf("%w in %s, or it has no leader now", ErrNotBound, l.stream)
		}
	}
	next := l.want(now)
	l.mu.Unlock()
	l.request(next, now)
}

// readReply reads what the reply subject says of a delivery: how often it was
// delivered, its sequence, and when it was stored. Msg.Metadata reads the same,
// and allocates (BenchmarkReadReply):
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
	return true
}

// listen notes that p is heard of. When that was due long before, this process or
// its connection has stood still: what arrives now may have been handed out
// meanwhile, and after ack-wait to another worker, so its lease runs from when p
// was last heard of. lane.mu is held.
func (p *pull) listen(now time.Time) {
	if p.left > 0 && p.doubt.IsZero() && now.Sub(p.heard) > pullSilent {
		p.doubt = p.heard
	}
	p.heard = now
}

// marks returns the reply subjects of the questions that are to be asked now to end
// a doubt: their answers come after all that is on its way. l.mu is held.
func (l *lane) marks(now time.Time) (due []string) {
	for i := range l.pulls {
		p := &l.pulls[i]
		if p.doubt.IsZero() || p.mark != "" && now.Sub(p.marked) < pullHeartbeat {
			continue
		}
		if p.mark == "" {
			l.serial++
			p.mark = p.inbox + "mark" + strconv.FormatUint(l.serial, 10)
		}
		p.marked = now
		due = append(due, p.mark)
	}
	return due
}

func (l *lane) ask(mark string) {
	_ = l.w.nc.PublishRequest(broker.API(l.w.js, "CONSUMER.INFO."+l.stream+"."+l.durable), mark, nil) // not connected: the keeper asks again
}

const pulling = "pull tasks"

// checkPulls gives up pulls that the broker has forgotten, as it does when the
// connection or the leader changes. l.mu is held.
func (l *lane) checkPulls(now time.Time) {
	for i := range l.pulls {
		if p := &l.pulls[i]; p.left > 0 && now.Sub(p.heard) > pullLost {
			p.listen(now)
			p.left = 0
			l.trouble[pulling] = errors.New("the broker does not answer")
			l.checkQuiet()
		}
	}
}

// checkQuiet tells drain when no pull is outstanding. l.mu is held.
func (l *lane) checkQuiet() {
	if l.draining.Load() && l.pulls[0].left == 0 && l.pulls[1].left == 0 {
		select {
		case <-l.quiet:
		default:
			close(l.quiet)
		}
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
