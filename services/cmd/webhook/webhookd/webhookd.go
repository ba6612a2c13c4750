// Package webhookd is the webhook service as a program: configuration and
// handlers put together, for its own binary and for `drover run webhook`.
package webhookd

import (
	"context"

	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/services/webhook"
	"github.com/droverhq/drover/shared/breaker"
	"github.com/droverhq/drover/shared/worker"
)

// Service returns the webhook service, not yet configured.
func Service() service.Service {
	var cfg webhook.Config
	var deliverer *webhook.Deliverer
	return service.Service{
		Name: "webhook", Help: "Delivers events to other people's servers, signed.", Admin: "127.0.0.1:8082",
		Config: &cfg,
		Check:  func() (err error) { deliverer, err = webhook.New(cfg); return err },
		Run:    func(ctx context.Context, env *service.Env) error { return run(ctx, env, deliverer, breakers(cfg)) },
	}
}

func run(ctx context.Context, env *service.Env, deliverer *webhook.Deliverer, opts []worker.HandlerOption) error {
	w, err := worker.New(env.JetStream, env.Service, env.WorkerOptions()...)
	if err != nil {
		return err
	}
	worker.Handle(w, deliverer.Deliver, opts...)
	return env.Run(ctx, w)
}

// breakers is the option for the breakers of hosts, unless they are off.
func breakers(cfg webhook.Config) []worker.HandlerOption {
	if cfg.BreakerFailures == 0 {
		return nil
	}
	return []worker.HandlerOption{worker.Breaker(breaker.Policy{Failures: cfg.BreakerFailures, Open: cfg.BreakerOpen}, webhook.Deliver.Host)}
}
