package supervise

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

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// admin is the supervisor's HTTP port for probes and scrapes.
type admin struct {
	server *http.Server
	addr   net.Addr
	meter  func(context.Context) error // ends the metrics
	wg     sync.WaitGroup
}

// Limits of the admin port: its clients are probes and scrapers.
const (
	adminRead  = 5 * time.Second
	adminWrite = 15 * time.Second
	adminClose = time.Second
	scrapes    = 4 // at once
)

func (s *Supervisor) listen(ctx context.Context, addr string) (*admin, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on admin address %s: %w: choose another with --admin: port 0 for any free one", addr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on admin address: %w", err)
	}
	registry := prometheus.NewRegistry()
	stop, err := s.measure(ctx, registry)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	errorLog := slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", answer("alive", s.alive))
	mux.Handle("GET /readyz", answer("ready", s.unready))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: scrapes, ErrorLog: errorLog,
	}))
	a := &admin{addr: l.Addr(), meter: stop, server: &http.Server{
		Handler: mux, ErrorLog: errorLog, ReadHeaderTimeout: adminRead, ReadTimeout: adminRead, WriteTimeout: adminWrite,
	}}
	a.wg.Go(func() {
		if err := a.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.ErrorContext(ctx, "the admin port is gone", slog.Any("error", err))
		}
	})
	return a, nil
}

// alive is nil while the embedded broker answers.
func (s *Supervisor) alive() error {
	if st := s.js.Conn().Status(); st != nats.CONNECTED {
		return fmt.Errorf("broker connection is %s", st)
	}
	return nil
}

// answer is 200 with ok, or 503 with the reason.
func answer(ok string, ask func() error) http.Handler {
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

func (a *admin) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminClose)
	defer cancel()
	if err := a.server.Shutdown(ctx); err != nil {
		_ = a.server.Close() // it had its time
	}
	a.wg.Wait()
	_ = a.meter(ctx) // what it could not send is lost with it
}
