package deadletter

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	gomail "github.com/wneessen/go-mail"

	"github.com/droverhq/drover/services/internal/relay"
	"github.com/droverhq/drover/shared/telemetry"
)

// channel is a way to tell people. send returns nil once the alert has arrived.
type channel interface {
	name() string
	send(ctx context.Context, a *Alert) error
}

// logger is the channel that is always there.
type logger struct{ log *slog.Logger }

func (logger) name() string { return "log" }

func (c logger) send(ctx context.Context, a *Alert) error {
	attrs := []any{
		slog.String("fingerprint", a.Fingerprint), slog.Uint64("count", a.Count), slog.Uint64("more", a.More),
		slog.Time("first", a.First), slog.Time("last", a.Last),
		slog.String(telemetry.TaskKind, a.Kind), slog.String(telemetry.TaskClass, a.Class), slog.String(telemetry.TaskReason, a.Reason),
		slog.String("example", a.Example.ID), slog.String("example_trace", a.Example.Trace), slog.String("error", a.Error),
		slog.String("look", a.Command),
	}
	if a.New {
		c.log.WarnContext(ctx, "tasks die of something new", attrs...)
	} else {
		c.log.WarnContext(ctx, "tasks go on dying of something known", attrs...)
	}
	return nil
}

// hook posts alerts as JSON.
type hook struct {
	url    *url.URL
	key    *standardwebhooks.Webhook // nil: unsigned
	client *http.Client
}

func newHook(c Webhook) (*hook, error) {
	u, err := location(c.URL)
	if err != nil {
		return nil, err
	}
	h := &hook{url: u, client: &http.Client{
		Timeout:       c.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if c.Secret != "" {
		if h.key, err = standardwebhooks.NewWebhook(strings.TrimPrefix(string(c.Secret), "whsec_")); err != nil {
			return nil, errors.New("--alert-webhook-secret: want whsec_ and then base64")
		}
	}
	return h, nil
}

func (*hook) name() string { return "webhook" }

func (h *hook) send(ctx context.Context, a *Alert) error {
	body, err := json.Marshal(struct {
		Type string    `json:"type"`
		Time time.Time `json:"timestamp"`
		Data *Alert    `json:"data"`
	}{"drover.dead_letters", a.Last, a})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "drover-deadletter")
	id, now := "alert_"+a.id(), time.Now()
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	if h.key != nil {
		signature, err := h.key.Sign(id, now, body)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	resp, err := h.client.Do(req)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the URL, which is often a secret
	}
	if err != nil {
		return fmt.Errorf("post to %s: %w", h.url.Host, err)
	}
	defer func() { _ = resp.Body.Close() }() // what was needed is read
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("post to %s: answered %d", h.url.Host, resp.StatusCode)
	}
	return nil
}

// mailer mails alerts, each over a connection of its own: there are few.
type mailer struct {
	from    string
	domain  string // of from
	to      []string
	host    string
	options []gomail.Option
	timeout time.Duration
}

func newMailer(c Mail) (*mailer, error) {
	route, err := relay.Server{Addr: c.Addr, Username: c.Username, Password: c.Password, TLS: c.TLS, CA: c.CA}.Route()
	var errs []error
	if err != nil {
		errs = append(errs, fmt.Errorf("--alert-mail-to: %w", err))
	}
	m := &mailer{host: route.Host, options: append(route.Options, gomail.WithTimeout(c.Timeout)), timeout: 4 * c.Timeout}
	from, err := parseAddress("--smtp-from", c.From)
	if errs = append(errs, err); err == nil {
		m.from, m.domain = from.String(), from.Address[strings.LastIndexByte(from.Address, '@')+1:]
	}
	for _, text := range c.To {
		a, err := parseAddress("--alert-mail-to", text)
		if errs = append(errs, err); err == nil {
			m.to = append(m.to, a.String())
		}
	}
	return m, errors.Join(errs...)
}

func (*mailer) name() string { return "mail" }

func (m *mailer) send(ctx context.Context, a *Alert) error {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	if err := errors.Join(msg.From(m.from), msg.To(m.to...)); err != nil {
		return fmt.Errorf("compose mail: %w", err)
	}
	msg.Subject("[drover] " + a.title())
	msg.SetDate()
	msg.SetMessageIDWithValue(rand.Text() + "@" + m.domain) // the library's own shows the name of this machine
	msg.SetGenHeader("Auto-Submitted", "auto-generated")    // RFC 3834: keeps "out of office" replies away
	msg.SetBodyString(gomail.TypeTextPlain, a.text())
	client, err := gomail.NewClient(m.host, m.options...)
	if err != nil {
		return fmt.Errorf("mail through %s: %w", m.host, err)
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("mail through %s: %w", m.host, err)
	}
	return nil
}
