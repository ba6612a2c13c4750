package streams

import (
	"slices"
	"strings"

	"github.com/droverhq/drover/shared/task"
)

// A class that is made fair while it lives loses and strands nothing, in this order:
//
//	1. the durable of each service takes what a fair class accepts, and no more
//	2. the stream takes no others, and stores tasks with a tenant by partition
//	3. each partition gets its durable, which begins with the first task
//
// What was stored before 2 has no partition, and stays with the durable of its
// service, also while workers hold it. A task of another shape would be left over,
// so while there is one nothing is done: see refusal.strands. The other way, and to
// another number of partitions, stored tasks would be under subjects that no durable
// takes, so that is refused.

// becomesFair reports whether the class of a stream is to be fair and is not yet.
func becomesFair(have, want streamConfig) bool {
	return have.SubjectTransform == nil && want.SubjectTransform != nil
}

// makesRoom reports whether a durable that took all tasks of its service is to take
// those without a partition.
func makesRoom(have, want consumerConfig) bool {
	t := strings.Split(have.FilterSubject, ".")
	return len(t) == 4 && t[3] == ">" && slices.Equal(want.FilterSubjects, task.FairFilters(task.Class(t[1]), t[2]))
}

// storedAs are the subjects under which a stream has what it takes.
func storedAs(c streamConfig) []string {
	out := slices.Clone(c.Subjects)
	if c.SubjectTransform == nil {
		return out
	}
	for _, s := range c.Subjects {
		if covers(c.SubjectTransform.Source, s) {
			out = append(out, s+".*") // its partition
		}
	}
	return out
}

// lanesIn are the lanes that these subjects of tasks belong to, as subjects; others
// stand for themselves.
func lanesIn(subjects []string) []string {
	var out []string
	for _, s := range subjects {
		if t := strings.Split(s, "."); len(t) > 3 && t[0] == "tasks" && t[2] != "*" {
			s = strings.Join(t[:3], ".") + ".>"
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
