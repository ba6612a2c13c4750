package natstest

import (
	"strings"
	"testing"
)

// Link is the network between one client and brokers: a TCP proxy in the test process
// that can be cut, or swallow what is sent. Its methods are safe for concurrent use.
type Link struct{ proxy *proxy }

// StartLink starts a link to the brokers at urls, which ends with tb. A new connection
// goes to the next of them that takes it.
func StartLink(tb testing.TB, urls ...string) *Link {
	tb.Helper()
	targets := make([]string, len(urls))
	for i, u := range urls {
		targets[i] = strings.TrimPrefix(u, "nats://")
	}
	return &Link{newProxy(tb, targets...)}
}

// URL is where the client connects. It must not follow the addresses that a broker
// tells, which go past the link.
func (l *Link) URL() string { return "nats://" + l.proxy.addr() }

// Cut closes what is open and lets nothing through.
func (l *Link) Cut() { l.proxy.set(refused) }

// BlackHole keeps everything open and carries nothing.
func (l *Link) BlackHole() { l.proxy.set(held) }

// Mend ends Cut and BlackHole; what a black hole held back arrives.
func (l *Link) Mend() { l.proxy.set(passes) }

// CutAfter cuts the link once the client has sent text in one piece, which still
// arrives, and lets nothing of the answer through. The channel is closed then. It
// replaces CutAfter and Sends that wait.
func (l *Link) CutAfter(text string) <-chan struct{} { return l.proxy.when(text, true) }

// Sends returns a channel that is closed when the client has sent text in one piece
// the next time. It replaces CutAfter and Sends that wait.
func (l *Link) Sends(text string) <-chan struct{} { return l.proxy.when(text, false) }
