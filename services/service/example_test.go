package service_test

import (
	"context"
	"fmt"
	"os"

	"github.com/droverhq/drover/services/service"
	"github.com/droverhq/drover/shared/worker"
)

// A service is a value. Its main function is service.Main(s).
func ExampleExec() {
	s := service.Service{
		Name: "email", Help: "Sends mail.", Admin: "127.0.0.1:8081",
		Run: func(ctx context.Context, env *service.Env) error {
			w, err := worker.New(env.JetStream, env.Service, env.WorkerOptions()...)
			if err != nil {
				return err
			}
			worker.Handle(w, func(context.Context, ping) error { return nil })
			return env.Run(ctx, w)
		},
	}
	code := service.Exec(context.Background(), s, []string{"--class", "slow"}, os.Stdout, os.Stdout)
	fmt.Println("exit code", code)
	// Output:
	// email: wrong usage: --class slow: the built-in fleet.yaml lets email serve urgent, default, bulk
	// Run "email --help" for all flags.
	// exit code 78
}
