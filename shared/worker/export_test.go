package worker

import "time"

// KillPulls ends the subscriptions of all lanes behind their back.
func KillPulls(w *Worker) {
	_ = w.Ready() // after which the lanes are there to be read
	for _, l := range w.lanes {
		l.mu.Lock()
		l.allPulls(func(p *pull) { _ = p.sub.Unsubscribe() })
		l.mu.Unlock()
	}
}

// CapLease has the permits of w leased for d.
func CapLease(w *Worker, d time.Duration) { w.capLease = d }
