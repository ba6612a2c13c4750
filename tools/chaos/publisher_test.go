package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/tools/chaos"
)

func init() { roles["publisher"] = publisherMain }

const (
	publishLimit = 40 * time.Second // of one publish: longer than an election and a broker's absence
	publishers   = 32               // publishes under way at once
)

// publisherMain publishes tasks at a steady rate until its time is over or it is
// told to end. What a task does follows from the seed and its number alone.
func publisherMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println("ready")
	if err := runPublisher(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runPublisher(ctx context.Context) error {
	s, ledger, js, err := join(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	c, err := client.New(js)
	if err != nil {
		return err
	}
	if s.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.For)
		defer cancel()
	}
	var failed errorOnce
	var wg sync.WaitGroup
	slots := make(chan struct{}, publishers)
	tick := time.NewTicker(time.Second / time.Duration(s.PerSec))
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			failed.set(publish(context.WithoutCancel(ctx), ledger, c, fmt.Sprintf("t%06d", n), s.deed(n)))
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	wg.Wait()
	return failed.err
}

type errorOnce struct {
	mu  sync.Mutex
	err error
}

func (e *errorOnce) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
}

// publish publishes one task, and writes down what it was told. The error is of
// the ledger.
func publish(ctx context.Context, ledger *chaos.Writer, c *client.Client, id string, d deed) error {
	if err := ledger.Write(chaos.Event{What: chaos.Intend, ID: id, Plan: d.Plan}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	rc, err := c.Publish(ctx, d, client.ID(id))
	e := chaos.Event{What: chaos.Stored, ID: id, Stream: rc.Stream, Sequence: rc.Sequence}
	switch {
	case errors.Is(err, client.ErrUnknown):
		e.What, e.Text = chaos.Unknown, err.Error()
	case err != nil:
		e.What, e.Text = chaos.Refused, err.Error()
	}
	return ledger.Write(e)
}

// plans are what tasks do, in how many of ten thousand; those that kill are as
// many times more as the setup says, because each takes its neighbours with it.
var plans = []struct {
	name  string
	of    int
	kills bool
}{
	{chaos.PlanFail, 800, false},
	{chaos.PlanHopeless, 60, false},
	{chaos.PlanPanic, 150, false},
	{chaos.PlanHang, 50, false},
	{chaos.PlanStubborn, 10, false},
	{chaos.PlanPermanent, 60, false},
	{chaos.PlanPutOff, 400, false},
	{chaos.PlanLarge, 100, false},
	{chaos.PlanStumble, 10, true},
	{chaos.PlanPoison, 5, true},
}

// deed is task n.
func (s setup) deed(n int) deed {
	rng := rand.New(rand.NewPCG(s.Seed, uint64(n)))
	d := deed{Plan: chaos.PlanWork, Work: time.Duration(rng.Int64N(int64(2*s.Work) + 1))}
	if rng.IntN(50) == 0 {
		d.Work = s.TimeLimit / 2 // some take long: they are what a kill finds at work
	}
	at := rng.IntN(10000)
	for _, p := range plans {
		of := p.of
		if p.kills {
			of *= s.Killers
		}
		if at -= of; at < 0 {
			d.Plan = p.name
			break
		}
	}
	switch d.Plan {
	case chaos.PlanFail:
		d.Times = 1 + rng.IntN(s.Attempts-1)
	case chaos.PlanPutOff:
		d.Delay = time.Duration(200+rng.IntN(800)) * time.Millisecond
		d.Age = 2 * d.Delay
	case chaos.PlanLarge:
		d.Bulk = incompressible(rng, 300<<10+rng.IntN(400<<10))
	}
	return d
}

func incompressible(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}
