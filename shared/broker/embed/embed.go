// Package embed runs a nats-server inside the process, for development, tools and
// examples. It is a package of its own so that what only connects, with package
// broker, does not link the server.
//
// # Semantics
//
// Durability is that of one node: see [Server].
//
// # Concurrency
//
// Everything here is safe for concurrent use.
package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Config of an embedded broker. The zero value listens on 127.0.0.1:4222; Dir is
// required.
type Config struct {
	Dir         string // where streams are stored; they survive restarts
	Host        string // "" means 127.0.0.1
	Port        int    // 0 means 4222; -1 lets the system pick one
	MonitorPort int    // of nats-server's HTTP monitoring, on Host; 0 turns it off, -1 lets the system pick
	MaxStore    int64  // bytes on disk for all streams; 0 means what the disk leaves
	Logger      *slog.Logger
}

// ErrPortTaken is returned by Start when another process listens on the port.
var ErrPortTaken = errors.New("port is taken")

// Server is a nats-server inside this process. Durability is that of one node:
// acknowledged writes survive the death of the process, and a power failure
// loses up to two minutes of them.
type Server struct{ s *server.Server }

const readyLimit = 20 * time.Second // recovery of a large store included

// Start starts a nats-server with JetStream in this process and returns when it
// accepts connections. It returns an error wrapping [ErrPortTaken] when the port
// is in use.
func Start(c Config) (*Server, error) {
	if c.Dir == "" {
		return nil, errors.New("start embedded broker: no folder for its streams")
	}
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if c.Port == 0 {
		c.Port = 4222
	}
	if c.Port > 0 {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(c.Host, strconv.Itoa(c.Port)))
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("start embedded broker on %s:%d: %w", c.Host, c.Port, ErrPortTaken)
		}
		if err != nil {
			return nil, fmt.Errorf("start embedded broker on %s:%d: %w", c.Host, c.Port, err)
		}
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("start embedded broker on %s:%d: %w", c.Host, c.Port, err)
		}
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "drover", Host: c.Host, Port: c.Port, HTTPHost: c.Host, HTTPPort: c.MonitorPort,
		JetStream: true, StoreDir: c.Dir, JetStreamMaxStore: c.MaxStore,
		NoSigs: true, // the process's own signal handling drains first
	})
	if err != nil {
		return nil, fmt.Errorf("start embedded broker: %w", err)
	}
	log := c.Logger
	if log == nil {
		log = slog.Default()
	}
	s.SetLoggerV2(serverLog{log}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(readyLimit) {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("start embedded broker: not ready after %v: look for another one that uses %s", readyLimit, c.Dir)
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("start embedded broker: it cannot store streams in %s", c.Dir)
	}
	return &Server{s}, nil
}

// URL is where clients connect.
func (s *Server) URL() string { return s.s.ClientURL() }

// Shutdown stops the server and returns when its streams are closed.
func (s *Server) Shutdown() {
	s.s.Shutdown()
	s.s.WaitForShutdown()
}

// serverLog passes on what an operator must know, and drops nats-server's
// narration of its start and of every connection.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Noticef(f string, v ...any) { l.say(slog.LevelDebug, f, v) }
func (l serverLog) Warnf(f string, v ...any)   { l.say(slog.LevelDebug, f, v) }
func (l serverLog) Errorf(f string, v ...any)  { l.say(slog.LevelError, f, v) }
func (l serverLog) Fatalf(f string, v ...any)  { l.say(slog.LevelError, f, v) }
func (l serverLog) Debugf(string, ...any)      {}
func (l serverLog) Tracef(string, ...any)      {}

func (l serverLog) say(level slog.Level, format string, v []any) {
	l.log.Log(context.Background(), level, "embedded broker", slog.String("says", fmt.Sprintf(format, v...)))
}
