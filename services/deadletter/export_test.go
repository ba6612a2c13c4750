package deadletter

// AfterCopy has f called between the copy of a task and the deletion of its
// original, for a process that is to end there.
func AfterCopy(f func()) { afterCopy = f }

// MaxNew is how many kinds of death are told apart in one interval.
const MaxNew = maxNew
