package embed_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/broker/embed"
)

var quiet = slog.New(slog.DiscardHandler)

func ExampleStart() {
	dir, err := os.MkdirTemp("", "drover")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := embed.Start(embed.Config{Dir: dir, Port: -1})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Shutdown()
	nc, err := nats.Connect(s.URL()) // in a service: broker.Connect
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	fmt.Println(nc.Status())
	// Output: CONNECTED
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = embed.Start(embed.Config{Dir: t.TempDir(), Port: l.Addr().(*net.TCPAddr).Port, Logger: quiet})
	if !errors.Is(err, embed.ErrPortTaken) {
		t.Errorf("Start() on a taken port = %v, want %v", err, embed.ErrPortTaken)
	}
}

func TestNoFolder(t *testing.T) {
	t.Parallel()
	s, err := embed.Start(embed.Config{Port: -1, Logger: quiet})
	if err == nil {
		s.Shutdown()
	}
	if err == nil || !strings.Contains(err.Error(), "no folder") {
		t.Errorf("Start() without a folder = %v, want an error that says so", err)
	}
}
