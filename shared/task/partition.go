package task

import (
	"strconv"
	"strings"
)

// A class that is fair between tenants is divided into partitions: the broker
// appends to the subject of a task with a tenant the number of its partition, which
// it derives from the tenant. Each partition has a durable consumer of its own, and
// workers take them in turn. Nobody but the broker writes that number.

// FairSubjects are what a fair class takes for one service: tasks without a tenant,
// and with one. Anything else is on no stream, and its publish fails.
func FairSubjects(c Class, service string) []string {
	s := "tasks." + string(c) + "." + service + ".*"
	return []string{s, s + ".*"}
}

// FairFilters match what the durable named after the service takes of a fair class.
// As stored, tasks with a tenant have their partition behind it, so these are the
// others, what was stored before the class was made fair, and tenants that the
// broker could not place, because they look like wildcards. Nothing has the first
// subject. It keeps the filters from being the subjects of a stream with one
// service: such a consumer counts for nats-server 2.15 as one that takes all
// there is, also what lies in partitions, and then nothing ever leaves those.
func FairFilters(c Class, service string) []string {
	return append([]string{"tasks." + string(c) + "." + service}, FairSubjects(c, service)...)
}

// PartitionFilter matches the tasks of one service in partition n of a fair class.
func PartitionFilter(c Class, service string, n int) string {
	return "tasks." + string(c) + "." + service + ".*.*." + strconv.Itoa(n)
}

// PartitionConsumer is the name of the durable consumer of one service's tasks in
// partition n of a fair class. Tasks without a tenant are in the one that is named
// after the service, as all are of a class that is not fair.
func PartitionConsumer(service string, n int) string { return service + "-" + strconv.Itoa(n) }

// PartitionTransform is what the broker makes of the subjects of class c when it has
// this many partitions: stored tasks keep their number for good.
func PartitionTransform(c Class, partitions int) (from, to string) {
	return "tasks." + string(c) + ".*.*.*",
		"tasks." + string(c) + ".{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}.{{partition(" + strconv.Itoa(partitions) + ",3)}}"
}

// Partition returns the number that ends a subject as a fair class stores it, or
// the filter of a partition, and false when there is none.
func Partition(stored string) (n int, ok bool) {
	_, n, ok = cutPartition(stored)
	return n, ok
}

const (
	subjectDots = 4 // in tasks.<class>.<service>.<action>.<tenant>
	maxDigits   = 3 // digits of a partition's number
)

// cutPartition returns the subject that a task was published to, and its partition
// if there is one.
func cutPartition(stored string) (subject string, n int, ok bool) {
	end := len(stored) - 1
	if end < 0 || stored[end] < '0' || stored[end] > '9' { // as most subjects: no need to look further
		return stored, 0, false
	}
	i := strings.LastIndexByte(stored, '.')
	digits := stored[i+1:]
	if !strings.HasPrefix(stored, "tasks.") || len(digits) > maxDigits || strings.Count(stored[:i], ".") != subjectDots {
		return stored, 0, false
	}
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return stored, 0, false
		}
		n = 10*n + int(c-'0')
	}
	return stored[:i], n, true
}
