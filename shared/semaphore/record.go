package semaphore

import (
	"slices"
	"time"
)

// Record is who holds how many permits of one resource, as a fleet shares it.
type Record struct {
	Resource string   `json:"resource"`
	Turn     uint64   `json:"turn"`              // counts how often permits were handed out
	Holders  []Holder `json:"holders,omitempty"` // who holds permits, or wants some
}

// Holder is one process in a [Record].
type Holder struct {
	Process string        `json:"process"`
	Service string        `json:"service"`
	Cap     int           `json:"cap"`              // that it was built with
	Held    int           `json:"held"`             // permits
	Wanted  int           `json:"wanted"`           // permits that it has use for, those that it holds included
	Lease   time.Duration `json:"lease"`            // ns after its last write in which the others leave its permits alone
	Beat    uint64        `json:"beat"`             // counts its writes
	Served  uint64        `json:"served,omitempty"` // the turn at which it was handed permits last
	At      time.Time     `json:"at"`               // when it wrote, by its clock: for people alone
}

// Cap returns the smallest cap of all holders, which is the one that holds; 0 when
// there is none.
func (r Record) Cap() int {
	least := 0
	for _, h := range r.Holders {
		if least == 0 || h.Cap < least {
			least = h.Cap
		}
	}
	return least
}

// Held counts the permits of all holders.
func (r Record) Held() (n int) {
	for _, h := range r.Holders {
		n += h.Held
	}
	return n
}

// Short counts the holders that want more permits than they hold.
func (r Record) Short() (n int) {
	for _, h := range r.Holders {
		if h.Wanted > h.Held {
			n++
		}
	}
	return n
}

// of is the entry of a process, and whether there is one.
func (r Record) of(process string) (Holder, bool) {
	for _, h := range r.Holders {
		if h.Process == process {
			return h, true
		}
	}
	return Holder{}, false
}

// with is a copy of r in which h takes the place of the entry of its process, and
// only those that keep names are left beside it. A holder of nothing that wants
// nothing is left out.
func (r Record) with(h Holder, keep map[string]sighting) Record {
	out := Record{Resource: r.Resource, Turn: r.Turn}
	for _, o := range r.Holders {
		if _, ok := keep[o.Process]; ok && o.Process != h.Process {
			out.Holders = append(out.Holders, o)
		}
	}
	if h.Held > 0 || h.Wanted > 0 {
		out.Holders = append(out.Holders, h)
	}
	slices.SortFunc(out.Holders, func(a, b Holder) int { return compare(a.Process, b.Process) })
	return out
}
