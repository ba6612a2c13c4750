package email

import (
	"slices"
	"sync"
	"time"
)

// pool keeps connections between two mails.
type pool struct {
	limit int           // kept at most
	idle  time.Duration // kept at longest

	mu     sync.Mutex
	kept   []*conn // the one used last at the end
	closed bool

	leaving sync.WaitGroup // connections that are saying goodbye
}

// get returns the connection that was used last, and nil when there is none: so
// the ones that are not needed grow old and go.
func (p *pool) get() (*conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if len(p.kept) == 0 {
		return nil, nil //nolint:nilnil // none is kept, which is no error
	}
	c := p.kept[len(p.kept)-1]
	p.kept = p.kept[:len(p.kept)-1]
	c.timer.Stop()
	return c, nil
}

// put keeps c for the next mail, or closes it when there are enough.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	if p.closed || len(p.kept) >= p.limit {
		p.mu.Unlock()
		c.quit()
		return
	}
	p.kept = append(p.kept, c)
	c.timer = time.AfterFunc(p.idle, func() { p.expire(c) })
	p.mu.Unlock()
}

// expire closes c unless it is in use. When c was used and kept again while this
// waited for the lock, its time is cut short, which does no harm.
func (p *pool) expire(c *conn) {
	p.mu.Lock()
	i := slices.Index(p.kept, c)
	if i < 0 {
		p.mu.Unlock()
		return
	}
	p.kept = slices.Delete(p.kept, i, i+1)
	p.leaving.Add(1)
	p.mu.Unlock()
	defer p.leaving.Done()
	c.quit()
}

func (p *pool) close() {
	p.mu.Lock()
	kept := p.kept
	p.kept, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range kept {
		c.timer.Stop()
		p.leaving.Go(c.quit)
	}
	p.leaving.Wait()
}
