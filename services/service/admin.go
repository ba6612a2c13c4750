package service

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

// admin is the HTTP port for probes and scrapes.
type admin struct {
	server *http.Server
	addr   net.Addr
	wg     sync.WaitGroup
}

// Limits of the admin port: its clients are probes and scrapers, and small.
const (
	adminRead   = 5 * time.Second  // of a request
	adminWrite  = 15 * time.Second // of a response; Prometheus gives up after 10 s
	adminIdle   = 2 * time.Minute
	adminHeader = 16 << 10 // bytes
	adminClose  = time.Second
	scrapes     = 4 // at once
)

// listen opens the admin port and serves until close. Errors while serving go to
// failed.
func listen(ctx context.Context, addr string, h *health, metrics prometheus.Gatherer, log *slog.Logger, failed func(error)) (*admin, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on admin address %s: %w: choose another with --admin or DROVER_ADMIN_ADDR: port 0 for any free one, nothing for none", addr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on admin address: %w", err)
	}
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", probe("alive", h.Live))
	mux.Handle("GET /readyz", probe("ready", h.Ready))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		EnableOpenMetrics:   true, // which carries exemplars
		MaxRequestsInFlight: scrapes,
		ErrorLog:            errorLog,
	}))
	a := &admin{addr: l.Addr(), server: &http.Server{
		Handler: mux, ErrorLog: errorLog,
		ReadHeaderTimeout: adminRead, ReadTimeout: adminRead, WriteTimeout: adminWrite,
		IdleTimeout: adminIdle, MaxHeaderBytes: adminHeader,
	}}
	a.wg.Go(func() {
		if err := a.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed(fmt.Errorf("serve admin address %s: %w", a.addr, err))
		}
	})
	return a, nil
}

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

// close lets the answers that are under way finish and frees the port.
func (a *admin) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminClose)
	defer cancel()
	if err := a.server.Shutdown(ctx); err != nil {
		_ = a.server.Close() // they had their time
	}
	a.wg.Wait()
}
