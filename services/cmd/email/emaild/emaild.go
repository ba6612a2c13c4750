// Package emaild is the email service as a program: configuration and handlers
// put together, for its own binary and for `drover run email`.
package emaild

import (
	"context"

	"github.com/droverhq/drover/services/email"
	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/worker"
)

// Service returns the email service, not yet configured.
func Service() service.Service {
	var cfg email.Config
	var sender *email.Sender
	return service.Service{
		Name: "email", Help: "Sends mail through one SMTP server.", Admin: "127.0.0.1:8081",
		Config: &cfg,
		Check:  func() (err error) { sender, err = email.New(cfg); return err },
		Run:    func(ctx context.Context, env *service.Env) error { return run(ctx, env, sender) },
	}
}

func run(ctx context.Context, env *service.Env, sender *email.Sender) error {
	defer func() { _ = sender.Close() }() // it says goodbye to the server, which can only fail
	w, err := worker.New(env.JetStream, env.Service, env.WorkerOptions()...)
	if err != nil {
		return err
	}
	worker.Handle(w, sender.Send)
	return env.Run(ctx, w)
}
