// Package deadletterd is the deadletter service as a program: configuration and
// watchdog put together, for its own binary and for `drover run deadletter`.
package deadletterd

import (
	"context"

	"github.com/droverhq/drover/services/deadletter"
	"github.com/droverhq/drover/services/service"
)

// Service returns the deadletter service, not yet configured.
func Service() service.Service {
	var cfg deadletter.Config
	var watchdog *deadletter.Watchdog
	return service.Service{
		Name: "deadletter", Help: "Looks after dead letters: moves what the broker gave up on, sweeps, and raises alerts.", Admin: "127.0.0.1:8083",
		NoTasks: true,
		Config:  &cfg,
		Check:   func() (err error) { watchdog, err = deadletter.New(cfg); return err },
		Run: func(ctx context.Context, env *service.Env) error {
			return watchdog.Run(ctx, deadletter.Deps{
				JetStream: env.JetStream, Fleet: env.Fleet, Logger: env.Log, MeterProvider: env.MeterProvider,
			}, env.Ready)
		},
	}
}
