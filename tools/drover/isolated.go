package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/fleet"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// ended counts the tasks of an isolated kind whose process ended without a verdict, in
// the workers that run now.
type ended struct {
	service string
	fleet.Isolated

	confined []string // how their memory is capped, in words
}

// endedAtLimits lists the kinds that have such tasks. It is a hint: what cannot be
// read is not counted, and `drover ps` says why.
func endedAtLimits(ctx context.Context, js jetstream.JetStream) []ended {
	var out []ended
	for p, err := range fleet.Processes(ctx, js, "") {
		if err != nil {
			continue
		}
		for _, i := range p.Isolated {
			if i.OOM+i.Killed+i.Died == 0 {
				continue
			}
			at := slices.IndexFunc(out, func(e ended) bool { return e.service == p.Service && e.Kind == i.Kind })
			if at < 0 {
				at, out = len(out), append(out, ended{service: p.Service, Isolated: fleet.Isolated{Kind: i.Kind}})
			}
			e := &out[at]
			e.OOM, e.Killed, e.Died = e.OOM+i.OOM, e.Killed+i.Killed, e.Died+i.Died
			if p.Confined != nil && !slices.Contains(e.confined, p.Confined.Memory) {
				e.confined = append(e.confined, p.Confined.Memory)
			}
		}
	}
	slices.SortFunc(out, func(a, b ended) int { return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.Kind, b.Kind)) })
	return out
}

// note says it in a line.
func (e ended) note() string {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{{e.OOM, "at their memory cap (oom)"}, {e.Killed, "at another limit (killed)"}, {e.Died, "by themselves (died)"}} {
		if p.n > 0 {
			parts = append(parts, screen.Count(p.n)+" "+p.what)
		}
	}
	text := fmt.Sprintf("%s: isolated attempts ended %s", screen.Plain(e.Kind), strings.Join(parts, ", "))
	if len(e.confined) > 0 {
		text += ", confined by " + screen.Plain(strings.Join(e.confined, " and "))
	}
	return text + ": `drover dead ls --kind " + screen.Plain(e.Kind) + "` shows those that gave up"
}
