package deploytest_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const brokerRole = "deploytest-broker"

// brokerMain is a nats-server with the configuration that DEPLOYTEST_CONF names.
func brokerMain() int {
	o, err := server.ProcessConfigFile(os.Getenv("DEPLOYTEST_CONF"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o.NoSigs = true
	s, err := server.NewServer(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s.ConfigureLogger()
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		fmt.Fprintln(os.Stderr, "nats-server is not ready")
		return 1
	}
	fmt.Println("ready", s.ClientURL()) //nolint:forbidigo // it is the protocol of natstest.Spawn
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return 0
}
