package streams

import (
	"slices"

	"github.com/droverhq/drover/shared/task"
)

// Producer is a user of the broker that publishes tasks and does nothing else.
type Producer struct {
	Name     string       // of its key, and of its connection
	Services []string     // whose tasks it publishes; none means all
	Classes  []task.Class // in which it publishes; none means all
	Bodies   bool         // it may publish bodies above 256 KiB; whoever may can also erase all of BODIES
}

// subjects are those that the producer may publish tasks to.
func (p Producer) subjects(f *Fleet) []string {
	if len(p.Services) == 0 && len(p.Classes) == 0 {
		return []string{"tasks.>"}
	}
	var out []string
	for _, c := range f.Classes {
		for _, s := range f.serving(c.Name) {
			if (len(p.Services) == 0 || slices.Contains(p.Services, s.Name)) &&
				(len(p.Classes) == 0 || slices.Contains(p.Classes, c.Name)) {
				out = append(out, task.Filter(c.Name, s.Name))
			}
		}
	}
	return out
}

// producer checks p, whose name is not taken.
func (p *problems) producer(i int, producer Producer, f *Fleet) {
	if err := task.CheckToken(producer.Name); err != nil {
		p.add("producer %d: name: %w", i+1, err)
		return
	}
	at := "producer " + producer.Name
	if slices.Contains(reserved[:], producer.Name) {
		p.add("%s: the name is one of Drover's own users", at)
	}
	for _, s := range producer.Services {
		if _, ok := f.Service(s); !ok {
			p.add("%s: services: there is no service %q", at, s)
		}
	}
	for _, c := range producer.Classes {
		if _, ok := f.Class(c); !ok {
			p.add("%s: classes: there is no class %q", at, c)
		}
	}
	if len(producer.subjects(f)) == 0 {
		p.add("%s: none of its services serves one of its classes: it could publish nothing", at)
	}
}
