package doctor

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
	"github.com/droverhq/drover/streams"
)

const (
	connectLimit = 4 * time.Second // for all of it
	probeLimit   = time.Second     // for one address, when connecting has failed
)

// dial connects as the fleet's programs do.
func dial(ctx context.Context, o Options, a *asker) (jetstream.JetStream, error) {
	limit := min(connectLimit, o.Limit/2)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSilent)
	defer cancel()
	each := limit / 2 / time.Duration(1+strings.Count(o.URL, ",")) // nats.go tries them one after the other
	return broker.Connect(ctx, broker.Options{
		URL: o.URL, Name: cmp.Or(o.User, streams.OperatorUser), Creds: o.Creds, NKey: o.NKey, Logger: slog.New(slog.DiscardHandler),
		Extra: []nats.Option{nats.Timeout(each), nats.ErrorHandler(a.complain)},
	})
}

// target is one address that was asked for a broker.
type target struct {
	url  string // without a password
	host string // without the port
	err  error  // of a bare connection to it; nil when something listens
}

// probe tries each address by itself: nats.go tries them all and keeps one error,
// and not that one when it is "connection refused".
func probe(ctx context.Context, urls string) []target {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	var out []target
	for u := range strings.SplitSeq(cmp.Or(urls, broker.DefaultURL), ",") {
		out = append(out, parse(strings.TrimSpace(u)))
	}
	var wg sync.WaitGroup
	for i, t := range out {
		if t.err != nil {
			continue
		}
		wg.Go(func() {
			u, _ := url.Parse(t.url)
			c, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "4222")))
			if err == nil {
				_ = c.Close()
			}
			out[i].err = err
		})
	}
	wg.Wait()
	return out
}

func parse(text string) target {
	if !strings.Contains(text, "://") {
		text = "nats://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return target{url: "(an address that does not parse)", err: errors.New("the address does not parse: want nats://HOST:PORT")}
	}
	u.User = nil
	return target{url: u.String(), host: u.Hostname()}
}

// loopback reports whether host is the machine itself.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
