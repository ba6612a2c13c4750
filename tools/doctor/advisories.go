package doctor

import (
	"fmt"
	"time"

	"github.com/droverhq/drover/shared/task"
)

// lookAdvisories is whether the broker had to give tasks up.
func lookAdvisories(s *snapshot) ([]Finding, Check) {
	info := s.stream(task.AdvisoryStream)
	if info == nil {
		return nil, skip("ADVISORIES could not be read")
	}
	n := info.State.Msgs
	advisories := some(n, "advisory", "advisories")
	if n == 0 {
		return nil, Check{Text: "the broker has given up no task"}
	}
	return []Finding{find("given-up", "stream ADVISORIES", "the broker has given up "+some(n, "task, and it is still in its stream", "tasks, and they are still in their streams"), n).
		seen(fmt.Sprintf("%s, the last %s (ADVISORIES)", advisories, info.State.LastTime.UTC().Format(time.RFC3339))).
		follows("Nobody runs these tasks and no dead letter tells of them.").
		remedy("run the deadletter service: it moves them to DEAD", "drover tasks ls --state held   # those that stay there")}, Check{Text: advisories}
}
