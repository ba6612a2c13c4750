package streams

import (
	"errors"
	"fmt"
	"strings"

	"github.com/droverhq/drover/shared/task"
)

const (
	maxAttempts   = 1_000
	maxSlots      = 10_000 // per process: each holds a goroutine and an unacknowledged delivery
	maxProcesses  = 1_000
	minPartitions = 2
	maxPartitions = 32      // each acknowledgement costs the broker a look at all consumers of its stream
	minMaxBytes   = 1 << 20 // room for one message of the largest size
	maxMaxBytes   = 1 << 50
)

// Validate returns every mistake in f at once, or nil. Zero fields that have a
// default are no mistake.
func (f *Fleet) Validate() error {
	var p problems
	d := f.withDefaults()
	if d.Replicas != 1 && d.Replicas != 3 && d.Replicas != 5 {
		p.add("replicas: %d, want 1, 3 or 5: an even number survives no more failures than one less", d.Replicas)
	}
	p.bytes("dead", d.Dead.MaxBytes)
	p.bytes("bodies", d.Bodies.MaxBytes)
	if len(d.Classes) == 0 {
		p.add("classes: there are none")
	}
	seen := map[task.Class]bool{}
	for i, c := range d.Classes {
		if seen[c.Name] {
			p.add("class %s: is named twice", c.Name)
		}
		seen[c.Name] = true
		p.class(i, c, d.AllowShortAckWait)
	}
	if len(d.Services) == 0 {
		p.add("services: there are none")
	}
	named := map[string]string{} // by lower case: file systems may not tell the cases apart
	for i, s := range d.Services {
		if other, ok := named[strings.ToLower(s.Name)]; ok {
			p.add("service %s: is named twice (%s)", s.Name, other)
		}
		named[strings.ToLower(s.Name)] = s.Name
		p.service(i, s, seen)
	}
	p.durables(d)
	for i, producer := range d.Producers {
		if other, ok := named[strings.ToLower(producer.Name)]; ok {
			p.add("producer %s: the name is taken (%s): each user of the broker has one of its own", producer.Name, other)
		}
		named[strings.ToLower(producer.Name)] = producer.Name
		p.producer(i, producer, d)
	}
	return errors.Join(p...)
}

type problems []error

func (p *problems) add(format string, args ...any) {
	*p = append(*p, fmt.Errorf(format, args...))
}

func (p *problems) class(i int, c Class, short bool) {
	if !lowerAlphanumeric(string(c.Name)) {
		p.add("class %d: name %q: want 1 to 64 of a-z and 0-9, because it becomes the name of a stream", i+1, c.Name)
		return
	}
	at := "class " + string(c.Name)
	switch {
	case c.AckWait <= 0:
		p.add("%s: ack_wait: %v, want a duration such as 30s", at, c.AckWait)
	case c.AckWait < MinAckWait && !short:
		p.add("%s: ack_wait: %v, want at least %v: a lease must outlive the election of a new leader (allow_short_ack_wait: true lifts this for tests)",
			at, c.AckWait, MinAckWait)
	}
	if c.TimeLimit <= 0 {
		p.add("%s: time_limit: %v, want a duration such as 1m", at, c.TimeLimit)
	}
	if c.WaitObjective <= 0 {
		p.add("%s: wait_objective: %v, want a duration such as 5s", at, c.WaitObjective)
	}
	p.count(at, "attempts", c.Attempts, maxAttempts)
	p.count(at, "max_deliver", c.MaxDeliver, BrokerMaxDeliver-1)
	p.count(at, "slots", c.Slots, maxSlots)
	if c.Slots > 0 {
		p.count(at, "retry_slots", c.RetrySlots, maxSlots)
	}
	p.bytes(at, c.MaxBytes)
	if c.Fair() || c.Partitions < 0 {
		if c.Partitions < minPartitions || c.Partitions > maxPartitions {
			p.add("%s: partitions: %d, want %d to %d, or 0 for a class that is not fair between tenants", at, c.Partitions, minPartitions, maxPartitions)
		}
	}
	if err := c.Retry().Validate(); err != nil && c.Attempts > 0 {
		p.add("%s: backoff: %w", at, err)
	}
}

func (p *problems) service(i int, s Service, classes map[task.Class]bool) {
	if err := task.CheckToken(s.Name); err != nil {
		p.add("service %d: name: %w", i+1, err)
		return
	}
	at := "service " + s.Name
	if strings.EqualFold(s.Name, task.DeadletterService) {
		p.add("%s: the name is that of a service which takes no tasks and needs no entry", at)
	}
	if strings.Trim(s.Name, "0123456789") == "" {
		p.add("%s: name: it is a number, which would look like a sequence in the subjects of acknowledgements", at)
	}
	if len(s.Classes) == 0 {
		p.add("%s: classes: it serves none", at)
	}
	seen := map[task.Class]bool{}
	for _, c := range s.Classes {
		switch {
		case seen[c]:
			p.add("%s: classes: %s is named twice", at, c)
		case !classes[c]:
			p.add("%s: classes: there is no class %q", at, c)
		}
		seen[c] = true
	}
	p.count(at, "processes", s.Processes, maxProcesses)
}

// durables finds services whose consumers would have one name: a partition's is
// made of its service's.
func (p *problems) durables(f *Fleet) {
	for _, c := range f.Classes {
		if c.Partitions > maxPartitions {
			continue // and is told so
		}
		of := map[string]string{}
		for _, s := range f.serving(c.Name) {
			for _, l := range liveConsumers(c, s) {
				name := l.Config.Durable
				if other, ok := of[name]; ok && other != s.Name {
					p.add("service %s: name: in class %s, which has partitions, %s would also be the consumer of one of %s: give one of them another name", s.Name, c.Name, name, other)
					return
				}
				of[name] = s.Name
			}
		}
	}
}

func (p *problems) count(at, key string, n, most int) {
	if n < 1 || n > most {
		p.add("%s: %s: %d, want 1 to %d", at, key, n, most)
	}
}

func (p *problems) bytes(at string, n int64) {
	if n < minMaxBytes || n > maxMaxBytes {
		p.add("%s: max_bytes: %s, want %s to %s", at, formatBytes(n), formatBytes(minMaxBytes), formatBytes(maxMaxBytes))
	}
}

func lowerAlphanumeric(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return task.CheckToken(s) == nil
}
