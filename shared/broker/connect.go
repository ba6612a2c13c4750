// Package broker connects to NATS the way a fleet needs it. Package embed below it
// runs a nats-server inside the process.
//
// # Semantics
//
// The defaults of nats.go suit a short-lived client: it gives up after two
// minutes without a server, notices a dead one after four, and keeps up to 8 MB
// of stale acknowledgements for the next. [Connect] reconnects for ever, notices
// within 30 s, and keeps nothing that would be sent late.
//
// # Concurrency
//
// Everything here is safe for concurrent use.
package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// MinVersion is the oldest nats-server that Drover works with: work-queue
// messages lost at max-deliver, block corruption on compaction and several
// security holes were mended up to it.
const MinVersion = "2.14.3"

// DefaultURL is where [Connect] looks when Options.URL is empty.
const DefaultURL = nats.DefaultURL

// Errors that Connect returns, wrapped with what to do.
var (
	ErrUnreachable = errors.New("no broker") // returned when nothing answers at the URL
	ErrTooOld      = errors.New("broker is too old")
	ErrNoJetStream = errors.New("broker has JetStream turned off")
)

// Options say where the broker is and who connects. The zero value connects to
// nats://127.0.0.1:4222 without a name or credentials.
type Options struct {
	URL    string        // one or more URLs, separated by commas; "" means [DefaultURL]
	Name   string        // shown by `nats server report connections`, and part of the inbox prefix
	Creds  string        // path of a .creds file; "" for none
	NKey   string        // path of an nkey seed file; "" for none
	Wait   time.Duration // how long to keep trying the first time; 0 means one try
	Logger *slog.Logger  // nil means slog.Default
	Closed func(error)   // called when the connection is closed for good; nil ignores it
	Extra  []nats.Option

	// PublishOnly says that the credentials may do no more than publish tasks and hear
	// the answers. Then Connect does not ask whether JetStream is on, which the broker
	// would refuse and log: without JetStream no publish is taken.
	PublishOnly bool
}

const (
	dialTimeout       = 5 * time.Second
	pingInterval      = 15 * time.Second // two unanswered: the server is taken for dead
	reconnectWait     = 250 * time.Millisecond
	reconnectJitter   = 250 * time.Millisecond
	noReconnectBuffer = -1 // a publish while disconnected is an error at once, not sent late
)

// Connect connects to the broker and checks that it can carry a fleet. The
// connection reconnects for ever; it ends only when the caller closes it or the
// server refuses its credentials, and then o.Closed is called: a process without
// a connection should end for its supervisor.
//
// It returns an error wrapping [ErrUnreachable], [ErrTooOld] or [ErrNoJetStream],
// and a [*DeniedError] when the connection may not hear its own inbox, for then no
// request would ever be answered.
func Connect(ctx context.Context, o Options) (jetstream.JetStream, error) {
	url := o.URL
	if url == "" {
		url = DefaultURL
	}
	log := o.Logger
	if log == nil {
		log = slog.Default()
	}
	opts := []nats.Option{
		nats.Timeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(1),
		nats.ReconnectBufSize(noReconnectBuffer),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				log.WarnContext(ctx, "broker connection lost, reconnecting", slog.Any("error", err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.InfoContext(ctx, "broker connection is back", slog.String("url", nc.ConnectedUrlRedacted()))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			level := slog.LevelError
			if d := Denied(err); o.PublishOnly && d != nil && strings.HasPrefix(d.Subject, jetstream.DefaultAPIPrefix) {
				level = slog.LevelDebug // it was asked to explain a failure, whose error says what that means
			}
			log.Log(ctx, level, "broker reports an error on the connection", slog.Any("error", err), slog.String("subject", subject))
		}),
	}
	if o.Name != "" {
		opts = append(opts, nats.Name(o.Name), nats.CustomInboxPrefix("_INBOX_"+inboxToken(o.Name)))
	}
	if o.Creds != "" {
		opts = append(opts, nats.UserCredentials(o.Creds))
	}
	if o.NKey != "" {
		opt, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			return nil, fmt.Errorf("read nkey seed %s: %w", o.NKey, err)
		}
		opts = append(opts, opt)
	}
	if o.Closed != nil {
		opts = append(opts, nats.ClosedHandler(func(nc *nats.Conn) { o.Closed(nc.LastError()) }))
	}
	nc, err := dial(ctx, url, o.Wait, append(opts, o.Extra...))
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err == nil {
		err = check(ctx, nc, js, o.PublishOnly)
	}
	if err != nil {
		nc.SetClosedHandler(nil)
		nc.Close()
		return nil, err
	}
	return js, nil
}

func dial(ctx context.Context, url string, wait time.Duration, opts []nats.Option) (*nats.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(wait, dialTimeout))
	defer cancel()
	for {
		nc, err := nats.Connect(url, opts...)
		switch {
		case err == nil:
			return nc, nil
		case errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired):
			return nil, fmt.Errorf("connect to broker at %s: %w: check the credentials", redact(url), err)
		}
		again := time.NewTimer(reconnectWait)
		select {
		case <-again.C:
			if wait > 0 {
				continue
			}
		case <-ctx.Done():
			again.Stop()
		}
		return nil, fmt.Errorf("connect: %w at %s (%w): start one with `drover up`, or name another with --nats", ErrUnreachable, redact(url), err)
	}
}

func check(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, publishOnly bool) error {
	if v := nc.ConnectedServerVersion(); Older(v, MinVersion) {
		return fmt.Errorf("%w: %s is %s, drover needs %s or newer: upgrade nats-server",
			ErrTooOld, nc.ConnectedUrlRedacted(), v, MinVersion)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	// Not every user may ask: a refusal has no answer to wait for, and is no trouble.
	report := nc.ErrorHandler()
	defer nc.SetErrorHandler(report)
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if d := Denied(err); d != nil {
			refuse(d)
			return
		}
		report(nc, sub, err)
	})
	var err error
	if publishOnly {
		err = listen(ctx, nc)
	} else { // the question subscribes to the inbox first, so that a refusal of that comes first
		_, err = js.AccountInfo(ctx)
	}
	switch d, ok := errors.AsType[*DeniedError](cmp.Or(context.Cause(ctx), err)); {
	case ok && d.Inbox():
		return fmt.Errorf("connect to broker at %s: %w", nc.ConnectedUrlRedacted(), d)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w (%s): add `jetstream {}` to its configuration", ErrNoJetStream, nc.ConnectedUrlRedacted())
	}
	return nil // another permission is no reason: a service may be denied account info
}

// listen returns the permission that nc lacks to hear its inbox, or nil. The broker
// says so before it answers a ping that comes later.
func listen(ctx context.Context, nc *nats.Conn) error {
	before := nc.LastError()
	sub, err := nc.SubscribeSync(nc.NewInbox() + ".*") // as those of requests are
	if err != nil {
		return nil // the connection is closed, and the next request says so
	}
	defer func() { _ = sub.Unsubscribe() }() // it fails when the connection is closed
	_ = nc.FlushWithContext(ctx)             // without an answer nothing was refused so far
	if d := DeniedSince(nc, before); d != nil {
		return d
	}
	return nil
}

// Older reports whether version a comes before b. Both are "major.minor.patch",
// with or without a "v" in front; a pre-release suffix is ignored, and what does
// not parse counts as 0.
func Older(a, b string) bool {
	pa, pb := parts(a), parts(b)
	for i := range pa {
		if pa[i] != pb[i] {
			return pa[i] < pb[i]
		}
	}
	return false
}

func parts(v string) (p [3]int) {
	v, _, _ = strings.Cut(strings.TrimPrefix(v, "v"), "-")
	for i, s := range strings.SplitN(v, ".", 3) {
		p[i], _ = strconv.Atoi(s) // 0 when it is no number
	}
	return p
}

func redact(url string) string {
	user, host, ok := strings.Cut(url, "@")
	if !ok {
		return url
	}
	scheme, _, _ := strings.Cut(user, "://")
	return scheme + "://…@" + host
}

func inboxToken(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, name)
}
