package bench

import (
	"fmt"
	"slices"
)

// Report is the figures of a run, each the median of the rounds unless its comment
// says otherwise. A ratio is the median of the rounds' own ratios, Drover over bare:
// for rates more is better, for times less.
type Report struct {
	Drain      float64 `json:"drain_per_second"` // tasks
	DrainBare  float64 `json:"drain_bare_per_second"`
	DrainRatio float64 `json:"drain_ratio"`

	Allocs     float64 `json:"allocs_per_task"` // during drain; an embedded broker's are in both
	AllocsBare float64 `json:"allocs_bare_per_task"`

	PublishOne         float64 `json:"publish_one_seconds"` // p50
	PublishOneBare     float64 `json:"publish_one_bare_seconds"`
	PublishOneRatio    float64 `json:"publish_one_ratio"`
	PublishOneP99      float64 `json:"publish_one_p99_seconds"`
	PublishOneBareP99  float64 `json:"publish_one_bare_p99_seconds"`
	PublishOneP99Ratio float64 `json:"publish_one_p99_ratio"`

	PublishMany          float64 `json:"publish_many_per_second"`
	PublishManyBare      float64 `json:"publish_many_bare_per_second"` // with ids, as ours
	PublishManyRatio     float64 `json:"publish_many_ratio"`
	PublishManyBareNoID  float64 `json:"publish_many_bare_without_id_per_second"`
	PublishManyRatioNoID float64 `json:"publish_many_ratio_to_without_id"`

	StartP50      float64 `json:"start_p50_seconds"` // publish to start at 200/s
	StartP99      float64 `json:"start_p99_seconds"`
	StartMost     float64 `json:"start_max_seconds"` // of all rounds
	StartBareP50  float64 `json:"start_bare_p50_seconds"`
	StartBareP99  float64 `json:"start_bare_p99_seconds"`
	StartBareMost float64 `json:"start_bare_max_seconds"` // of all rounds
	StartP50Ratio float64 `json:"start_p50_ratio"`
	StartP99Ratio float64 `json:"start_p99_ratio"`

	// Each round's ratios, in their order, to judge how much they vary.
	DrainRatios       []float64 `json:"drain_ratios"`
	PublishOneRatios  []float64 `json:"publish_one_ratios"`
	PublishManyRatios []float64 `json:"publish_many_ratios"`

	Rounds   int     `json:"rounds"`
	Tasks    int     `json:"tasks"`       // in each drain and publish many
	Broker   string  `json:"nats_server"` // its version
	Embedded bool    `json:"embedded"`    // in this very process
	Go       string  `json:"go"`
	CPUs     int     `json:"cpus"` // that Go may use
	Seconds  float64 `json:"seconds"`
}

func summarize(rounds []round) *Report {
	ours := func(f func(round) pair) float64 {
		return median(each(rounds, func(r round) float64 { return f(r).ours }))
	}
	bare := func(f func(round) pair) float64 {
		return median(each(rounds, func(r round) float64 { return f(r).bare }))
	}
	ratios := func(f func(round) pair) []float64 {
		return each(rounds, func(r round) float64 { return f(r).ratio() })
	}
	drain := func(r round) pair { return r.drain }
	allocs := func(r round) pair { return r.allocs }
	one := func(r round) pair { return r.one }
	oneP99 := func(r round) pair { return r.oneP99 }
	many := func(r round) pair { return r.many }
	noID := func(r round) pair { return r.manyNoID }
	p50 := func(r round) pair { return r.startP50 }
	p99 := func(r round) pair { return r.startP99 }
	return &Report{
		Drain: ours(drain), DrainBare: bare(drain), DrainRatio: median(ratios(drain)), DrainRatios: ratios(drain),
		Allocs: ours(allocs), AllocsBare: bare(allocs),
		PublishOne: ours(one), PublishOneBare: bare(one), PublishOneRatio: median(ratios(one)), PublishOneRatios: ratios(one),
		PublishOneP99: ours(oneP99), PublishOneBareP99: bare(oneP99), PublishOneP99Ratio: median(ratios(oneP99)),
		PublishMany: ours(many), PublishManyBare: bare(many), PublishManyRatio: median(ratios(many)), PublishManyRatios: ratios(many),
		PublishManyBareNoID: bare(noID), PublishManyRatioNoID: median(ratios(noID)),
		StartP50: ours(p50), StartBareP50: bare(p50), StartP50Ratio: median(ratios(p50)),
		StartP99: ours(p99), StartBareP99: bare(p99), StartP99Ratio: median(ratios(p99)),
		StartMost:     slices.Max(each(rounds, func(r round) float64 { return r.startMost.ours })),
		StartBareMost: slices.Max(each(rounds, func(r round) float64 { return r.startMost.bare })),
	}
}

func each(rounds []round, f func(round) float64) []float64 {
	out := make([]float64, len(rounds))
	for i, r := range rounds {
		out[i] = f(r)
	}
	return out
}

// median of an even number is the mean of the two in the middle.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// What the project promises of its speed.
const (
	leastDrain       = 0.8
	mostPublishOne   = 1.1
	leastPublishMany = 0.8
	mostStartP50     = 0.0005 // s
	mostStartP99     = 0.003  // s
)

// Missed returns one sentence for each promise that the figures do not keep.
func (r *Report) Missed() []string {
	var out []string
	least := func(what string, got, want float64) {
		if got < want {
			out = append(out, fmt.Sprintf("%s is %.2f of bare nats.go, want at least %.2f", what, got, want))
		}
	}
	least("drain", r.DrainRatio, leastDrain)
	least("publish many", r.PublishManyRatio, leastPublishMany)
	if r.PublishOneRatio > mostPublishOne {
		out = append(out, fmt.Sprintf("publish one takes %.2f of bare nats.go, want at most %.2f", r.PublishOneRatio, mostPublishOne))
	}
	most := func(what string, got, want float64) {
		if got > want {
			out = append(out, fmt.Sprintf("publish to start takes %.2f ms at %s, want at most %.1f ms", got*1000, what, want*1000))
		}
	}
	most("p50", r.StartP50, mostStartP50)
	most("p99", r.StartP99, mostStartP99)
	return out
}
