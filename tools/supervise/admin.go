package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/droverhq/drover/services/service/admin"
)

// listen opens the supervisor's own admin port, and starts what it measures. stop
// ends both.
func (s *Supervisor) listen(ctx context.Context, addr string) (err error) {
	registry := prometheus.NewRegistry()
	if s.unmeasure, err = s.measure(ctx, registry); err != nil {
		return err
	}
	s.admin, err = admin.Listen(ctx, admin.Config{
		Addr: addr, Remedy: "choose another with --admin: port 0 for any free one",
		Live: s.alive, Ready: s.unready, Metrics: registry, Log: s.log,
		Failed: func(err error) {
			s.log.ErrorContext(ctx, "the admin port is gone", slog.Any("error", err))
		},
	})
	return err
}

func (s *Supervisor) closeAdmin(ctx context.Context) {
	if s.admin != nil {
		s.admin.Close(ctx)
	}
	if s.unmeasure != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = s.unmeasure(ctx) // what it could not send is lost with it
	}
}

// alive is nil while the embedded broker answers.
func (s *Supervisor) alive() error {
	if st := s.js.Conn().Status(); st != nats.CONNECTED {
		return fmt.Errorf("broker connection is %s", st)
	}
	return nil
}
