package natstest

import (
	"context"
	"errors"
	"os"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Example is [JetStream] for example functions, which have no testing.TB: a server
// inside the process, prepared by setup. stop ends it and removes what it stored;
// it is nil when there is an error.
func Example(setup func(context.Context, jetstream.JetStream) error) (js jetstream.JetStream, stop func(), err error) {
	dir, err := os.MkdirTemp("", "drover")
	if err != nil {
		return nil, nil, err
	}
	s, err := server.NewServer(&server.Options{ServerName: "natstest", DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	s.Start()
	var nc *nats.Conn
	end := func() {
		if nc != nil {
			nc.Close()
		}
		s.Shutdown()
		s.WaitForShutdown()
		_ = os.RemoveAll(dir) // the system's temp folder is swept
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	if !s.ReadyForConnections(readyWithin) {
		err = errors.New("nats-server is not ready")
	}
	if err == nil {
		nc, err = nats.Connect("", nats.InProcessServer(s))
	}
	if err == nil {
		js, err = jetstream.New(nc)
	}
	if err == nil {
		err = setup(ctx, js)
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return js, end, nil
}
