package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// pair is one figure of Drover and the same of bare nats.go.
type pair struct{ ours, bare float64 }

func (p pair) ratio() float64 { return p.ours / p.bare }

// round is what one round measured. Rates are tasks/s and times seconds.
type round struct {
	drain, allocs      pair
	one                pair // p50
	many, manyNoID     pair
	startP50, startP99 pair
	startMost          pair
	oneP99             pair
}

// round measures everything once. In odd rounds bare nats.go goes first.
func (r *run) round(ctx context.Context, label string, number int) (round, error) {
	var got round
	steps := []struct {
		name       string
		ours, bare func() error
		say        func() string
	}{
		{
			"drain",
			func() error {
				d, err := r.drain(ctx, r.byWorker)
				got.drain.ours, got.allocs.ours = d.rate, d.allocs
				return err
			},
			func() error {
				d, err := r.drain(ctx, r.byNats(nil))
				got.drain.bare, got.allocs.bare = d.rate, d.allocs
				return err
			},
			func() string { return rates(got.drain) },
		},
		{
			"publish many",
			func() (err error) {
				got.many.ours, err = r.publishMany(ctx)
				got.manyNoID.ours = got.many.ours
				return err
			},
			func() (err error) {
				if got.many.bare, err = r.publishManyBare(ctx, true); err == nil {
					got.manyNoID.bare, err = r.publishManyBare(ctx, false)
				}
				return err
			},
			func() string { return rates(got.many) },
		},
		{
			"publish one",
			func() error {
				ours, bare, err := r.publishOne(ctx)
				got.one = pair{quantile(ours, 0.5), quantile(bare, 0.5)}
				got.oneP99 = pair{quantile(ours, 0.99), quantile(bare, 0.99)}
				return err
			},
			func() error { return nil }, // measured with ours
			func() string { return times(got.one) },
		},
		{
			"publish to start",
			func() error {
				took, err := r.startOurs(ctx)
				got.startP50.ours, got.startP99.ours, got.startMost.ours = quantile(took, 0.5), quantile(took, 0.99), quantile(took, 1)
				return err
			},
			func() error {
				took, err := r.startBare(ctx)
				got.startP50.bare, got.startP99.bare, got.startMost.bare = quantile(took, 0.5), quantile(took, 0.99), quantile(took, 1)
				return err
			},
			func() string { return times(got.startP50) + " (p50)" },
		},
	}
	for _, s := range steps {
		turns := []func() error{s.ours, s.bare}
		if number%2 == 1 {
			slices.Reverse(turns)
		}
		for _, measure := range turns {
			if ctx.Err() != nil {
				return round{}, context.Cause(ctx)
			}
			if err := measure(); err != nil {
				return round{}, fmt.Errorf("%s: %w", s.name, err)
			}
		}
		r.Progress(fmt.Sprintf("%s: %s %s", label, s.name, s.say()))
	}
	return got, nil
}

func rates(p pair) string {
	return fmt.Sprintf("%.0f/s, bare %.0f/s, ratio %.2f", p.ours, p.bare, p.ratio())
}

func times(p pair) string {
	const ms = 1000
	return fmt.Sprintf("%.3f ms, bare %.3f ms, ratio %.2f", p.ours*ms, p.bare*ms, p.ratio())
}

// quantile returns the q-quantile of took in seconds, 0 when there is nothing.
func quantile(took []time.Duration, q float64) float64 {
	if len(took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(took))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Seconds()
}
