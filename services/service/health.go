package service

import (
	"errors"
	"sync"
)

// health is what the probes of the admin port ask: whether the process is worth
// keeping, and whether it takes tasks.
type health struct {
	mu       sync.Mutex
	ready    func() error // what the service says; nil until Env.Ready
	stage    error        // why it is not ready before that
	draining error        // nil until the process was asked to end
	gone     error        // why the connection is closed for good; nil while it is not
}

var errStarting = errors.New("the service is starting")

// Live returns nil unless the process can only be replaced.
func (h *health) Live() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone
}

// Ready returns nil when the service takes tasks, and else why it does not.
func (h *health) Ready() error {
	h.mu.Lock()
	ready := h.ready
	err := errors.Join(h.gone, h.draining)
	if err == nil && ready == nil {
		err = h.stage
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return ready() // not under the lock: it is the service's
}

func (h *health) ask(f func() error) {
	h.mu.Lock()
	h.ready = f
	h.mu.Unlock()
}

func (h *health) at(stage error) {
	h.mu.Lock()
	h.stage = stage
	h.mu.Unlock()
}

func (h *health) drain(cause error) {
	h.mu.Lock()
	h.draining = cause
	h.mu.Unlock()
}

func (h *health) lost(err error) {
	h.mu.Lock()
	h.gone = err
	h.mu.Unlock()
}
