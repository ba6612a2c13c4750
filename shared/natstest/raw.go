package natstest

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
)

// BadHeader is a block of headers that nats.go cannot decode, for [PublishRaw].
const BadHeader = "NATS/1.0\r\nno colon here\r\n\r\n"

// PublishRaw publishes a message with these bytes as its headers, which nats.go
// might not write, and returns when the broker has it.
func PublishRaw(tb testing.TB, url, subject, header, data string) {
	tb.Helper()
	c, err := new(net.Dialer).DialContext(tb.Context(), "tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		tb.Fatalf("connect to nats-server: %v", err)
	}
	defer func() { _ = c.Close() }()
	_, err = fmt.Fprintf(c, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n", subject, len(header), len(header)+len(data), header, data)
	if err != nil {
		tb.Fatalf("publish %s: %v", subject, err)
	}
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if lines.Text() == "PONG" {
			return
		}
	}
	tb.Fatalf("publish %s: the broker has not answered a ping", subject)
}
