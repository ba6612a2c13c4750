package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/dev"
	"github.com/droverhq/drover/tools/supervise"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// mailDelay is how long the mail server takes for each mail: enough for 2,000 of
// them to take some seconds.
const mailDelay = 60 * time.Millisecond

// outside starts the mail server and the receiver, and takes down what they see.
func (d *demo) outside(ctx context.Context) (err error) {
	if d.mail, err = dev.ListenMail(ctx, dev.MailOptions{
		Delay: mailDelay,
		Rcpt:  d.ledger.start,
		Taken: func(m dev.Mail) {
			// The service derives the Message-ID from id and generation.
			own, _, _ := strings.Cut(m.MessageID, "@")
			id, generation, _ := strings.Cut(own, ".")
			d.ledger.end(id + ":" + generation)
		},
	}); err != nil {
		return err
	}
	o := dev.ReceiverOptions{
		Got: func(c dev.Call) {
			id, _, _ := strings.Cut(c.ID, ":")
			d.ledger.start(id, c.At)
		},
		Answered: func(c dev.Call) {
			switch {
			case !c.Verified:
				d.ledger.forged()
			case c.Status/100 == 2:
				d.ledger.end(c.ID)
			}
		},
	}
	if d.hooks, err = dev.ListenHooks(ctx, o); err == nil {
		d.billing, err = dev.ListenHooks(ctx, o)
	}
	return err
}

// listen hears what the demo's service says, and sees every move that workers
// publish, as any client of the broker could.
func (d *demo) listen() error {
	nc := d.s.JetStream().Conn()
	for subject, f := range map[string]nats.MsgHandler{
		seenSubject: d.heard, "retry.*.>": d.moved, "dead.>": d.moved, turns: d.turned,
	} {
		if _, err := nc.Subscribe(subject, f); err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
	}
	return nc.Flush()
}

func (d *demo) heard(m *nats.Msg) {
	var s seen
	if json.Unmarshal(m.Data, &s) != nil {
		return // not of the demo's service
	}
	id, _, _ := strings.Cut(s.ID, ":")
	if s.Done {
		d.ledger.end(s.ID)
		return
	}
	d.ledger.start(id, s.At)
	if d.ledger.name(id) == killer && s.Child {
		d.mu.Lock()
		d.alone++
		d.mu.Unlock()
		d.show.say("%s runs alone in a child now, beside nobody", killer)
	}
}

// moved shows a move to RETRY or DEAD.
func (d *demo) moved(m *nats.Msg) {
	st, ok := d.ledger.move(m)
	if !ok {
		return
	}
	why := ""
	if n := len(st.Errors); n > 0 {
		why = ": " + short(st.Errors[n-1].Error, shortError)
	}
	name := d.ledger.name(st.ID)
	if strings.HasPrefix(m.Subject, "dead.") {
		d.ledger.died(st.ID, st.Reason)
		d.show.say("%s is dead, %s%s", name, st.Reason, why)
		return
	}
	switch st.Reason {
	case task.Circuit:
		d.show.note("%s waits%s: its receiver is left alone", name, due(m))
	case task.PutOff:
		d.show.note("%s is put off%s", name, due(m))
	case task.Suspect:
		d.show.note("%s is a suspect: next it runs alone, in a child", name)
	default:
		d.show.note("%s tries again%s%s", name, due(m), why)
	}
}

const shortError = 50 // bytes

// due says when the timer of a move fires.
func due(m *nats.Msg) string {
	text, ok := strings.CutPrefix(m.Header.Get(task.HeaderSchedule), "@at ")
	at, err := time.Parse(time.RFC3339Nano, text)
	if !ok || err != nil {
		return ""
	}
	if wait := time.Until(at).Round(10 * time.Millisecond); wait > 0 {
		return " in " + screen.Span(wait)
	}
	return " now"
}

// event is what the supervisor has to say.
func (d *demo) event(e supervise.Event) {
	if e.Kind == supervise.Ended {
		d.mu.Lock()
		d.ends[e.Service]++
		if e.Service != serviceName && len(d.unexpected) < 10 {
			d.unexpected = append(d.unexpected, e.Process+" "+e.Text)
		}
		d.mu.Unlock()
		d.show.say("%s %s", e.Process, e.Text)
		return
	}
	d.show.note("%s warns: %s", e.Process, e.Text)
}

// deaths are the processes that ended unasked, of the demo's service and of others.
func (d *demo) deaths() (own, alone int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ends[serviceName], d.alone
}

// port is the one that a receiver listens on.
func port(r *dev.Receiver) string {
	_, p, _ := strings.Cut(strings.TrimPrefix(r.URL(), "http://"), ":")
	return p
}
