package supervise

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	probeFirst = 25 * time.Millisecond // until it is ready for the first time
	probeEvery = time.Second
	probeLimit = 2 * time.Second
	maxReason  = 1 << 10 // bytes
)

// probe asks the process again and again whether it is ready, until it has ended.
func (p *process) probe(ended <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.s.killCtx))
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConns: 1}, Timeout: probeLimit}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(probeFirst)
	defer tick.Stop()
	slow := false
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		addr := p.snapshot().Admin
		if addr == "" || p.s.stopped() {
			continue
		}
		ready, why := ask(ctx, client, "http://"+addr+"/readyz")
		p.found(ready, why)
		if ready && !slow {
			slow = true
			tick.Reset(probeEvery)
		}
	}
}

// found takes down the answer of a probe.
func (p *process) found(ready bool, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.s.stopped() {
		return
	}
	p.state.Ready, p.state.Status = ready, statusReady
	if !ready {
		p.state.Status = why
		return
	}
	select {
	case <-p.ready:
	default:
		close(p.ready)
	}
}

// ask reads one probe of an admin port: 200 is yes, and the body of anything else
// says why not.
func ask(ctx context.Context, client *http.Client, url string) (ok bool, why string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false, err.Error()
	}
	res, err := client.Do(req)
	if err != nil {
		return false, "does not answer on its admin port"
	}
	defer func() { _ = res.Body.Close() }() // what was needed is read
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxReason))
	return res.StatusCode == http.StatusOK, strings.TrimPrefix(strings.TrimSpace(string(body)), "not ready: ")
}
