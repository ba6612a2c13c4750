// Package admin is the HTTP port of a process for probes and scrapes: /healthz,
// /readyz and /metrics.
//
// # Concurrency
//
// [Port.Close] may be called once; everything else is safe for concurrent use.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config of a port. All fields but Remedy are required.
type Config struct {
	Addr    string // host:port; port 0 for any free one
	Remedy  string // what to do when the port is taken
	Live    func() error
	Ready   func() error // nil is ready; else why not
	Metrics prometheus.Gatherer
	Log     *slog.Logger
	Failed  func(error) // called when serving fails, once
}

// Port is an open admin port. Make one with [Listen].
type Port struct {
	server *http.Server
	addr   net.Addr
	wg     sync.WaitGroup
}

// Limits of the admin port: its clients are probes and scrapers, and small.
const (
	readLimit   = 5 * time.Second  // of a request
	writeLimit  = 15 * time.Second // of a response; Prometheus gives up after 10 s
	idleLimit   = 2 * time.Minute
	headerLimit = 16 << 10 // bytes
	closeLimit  = time.Second
	scrapes     = 4 // at once
)

// Listen opens the port and serves until Close. Its error says the remedy when
// another process has the port.
func Listen(ctx context.Context, c Config) (*Port, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", c.Addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on admin address %s: %w: %s", c.Addr, err, c.Remedy)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on admin address: %w", err)
	}
	errorLog := slog.NewLogLogger(c.Log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", probe("alive", c.Live))
	mux.Handle("GET /readyz", probe("ready", c.Ready))
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{
		EnableOpenMetrics:   true, // which carries exemplars
		MaxRequestsInFlight: scrapes,
		ErrorLog:            errorLog,
	}))
	p := &Port{addr: l.Addr(), server: &http.Server{
		Handler: mux, ErrorLog: errorLog,
		ReadHeaderTimeout: readLimit, ReadTimeout: readLimit, WriteTimeout: writeLimit,
		IdleTimeout: idleLimit, MaxHeaderBytes: headerLimit,
	}}
	p.wg.Go(func() {
		if err := p.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			c.Failed(fmt.Errorf("serve admin address %s: %w", p.addr, err))
		}
	})
	return p, nil
}

// Addr is where the port is, with its number.
func (p *Port) Addr() string { return p.addr.String() }

// probe answers 200 with ok, or 503 with the reason.
func probe(ok string, ask func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err := ask(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, "not %s: %v\n", ok, err) // the prober may have gone
			return
		}
		_, _ = fmt.Fprintln(w, ok)
	})
}

// Close lets the answers that are under way finish, for a second, and frees the
// port. It goes on when ctx is done.
func (p *Port) Close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	if err := p.server.Shutdown(ctx); err != nil {
		_ = p.server.Close() // they had their time
	}
	p.wg.Wait()
}
