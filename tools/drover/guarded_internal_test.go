package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/droverhq/drover/shared/natstest"
)

// errorLog keeps what a broker logs as an error.
type errorLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *errorLog) Errorf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, v...))
}
func (*errorLog) Noticef(string, ...any) {}
func (*errorLog) Warnf(string, ...any)   {}
func (*errorLog) Fatalf(string, ...any)  {}
func (*errorLog) Debugf(string, ...any)  {}
func (*errorLog) Tracef(string, ...any)  {}

// guarded DIR starts a broker that asks for the keys that are in DIR, and has the
// commands after it talk to that one.
func guarded(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: guarded DIR")
	}
	tb, ok := ts.Value("tb").(testing.TB)
	if !ok {
		ts.Fatalf("testscript hands out no testing.TB any more")
	}
	dir := ts.MkAbs(args[0])
	o, err := server.ProcessConfigFile(filepath.Join(dir, "accounts.conf"))
	ts.Check(err)
	o.Host, o.Port, o.JetStream, o.StoreDir = "127.0.0.1", server.RANDOM_PORT, true, tb.TempDir()
	s, log := natstest.Serve(tb, o), &errorLog{}
	s.SetLoggerV2(log, false, false, false)
	brokerErrors.Store(ts, log)
	ts.Defer(func() { brokerErrors.Delete(ts) })
	ts.Setenv("DROVER_NATS_URL", s.ClientURL())
}

// brokerErrors are by script: *errorLog.
var brokerErrors sync.Map

// complaints writes what the broker of "guarded" has logged as errors.
func complaints(ts *testscript.TestScript, neg bool, args []string) {
	log, ok := brokerErrors.Load(ts)
	if neg || len(args) > 0 || !ok {
		ts.Fatalf("usage: complaints, after guarded")
	}
	l := log.(*errorLog)
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(ts.Stdout(), strings.Join(l.lines, "\n"))
}
