package demo

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// breakerOpen is how long the breaker of a receiver opens: short, for those who watch.
const breakerOpen = "1s"

// turns are where the webhook service shares its breakers.
const turns = "$KV." + task.BreakersBucket + ".webhook.*"

// Breaker is what the breaker of the receiver of orders did.
type Breaker struct {
	Opened int `json:"opened"` // times
	Tasks  int `json:"tasks"`  // that waited for it
	Parked int `json:"parked"` // times that they did, without an attempt
}

// turned shows a transition of a breaker.
func (d *demo) turned(m *nats.Msg) {
	var r breaker.Record
	if json.Unmarshal(m.Data, &r) != nil {
		return // the marker of an expiry
	}
	d.mu.Lock()
	before := d.state
	d.state = r.State
	if r.State == breaker.Open {
		d.opened++
	}
	d.mu.Unlock()
	if r.State == before && before != breaker.Open {
		return // a probe that takes long
	}
	switch r.State {
	case breaker.Open:
		_, why, _ := strings.Cut(r.Reason, "deliver webhook to ")
		_, why, _ = strings.Cut(why, ": ")
		d.show.say("the receiver is left alone for %s: %s", screen.Span(time.Until(r.Until).Round(100*time.Millisecond)), short(why, shortError))
	case breaker.HalfOpen:
		d.show.say("one process probes the receiver")
	case breaker.Closed:
		d.show.say("the receiver works again: its deliveries go on")
	}
}

// breaker is what there is to report.
func (d *demo) breaker() Breaker {
	b := Breaker{}
	d.mu.Lock()
	b.Opened = d.opened
	d.mu.Unlock()
	d.ledger.mu.Lock()
	defer d.ledger.mu.Unlock()
	for _, n := range d.ledger.parked {
		b.Tasks++
		b.Parked += n
	}
	return b
}

func (b Breaker) String() string {
	return fmt.Sprintf("the receiver's breaker opened %s: %s waited for it, %s in all, without an attempt",
		screen.Some(b.Opened, "time", "times"), screen.Some(b.Tasks, "delivery", "deliveries"), screen.Some(b.Parked, "time", "times"))
}

// leftAlone says that the receiver is left alone now.
func (d *demo) leftAlone() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == breaker.Open || d.state == breaker.HalfOpen {
		return " · left alone"
	}
	return ""
}
