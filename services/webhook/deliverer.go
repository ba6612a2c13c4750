package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"code.dny.dev/ssrf"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
)

// ErrRefused is returned, permanently, when the configuration does not allow the
// destination: an address that is not public, a port that is not open, a URL that
// is not https.
var ErrRefused = errors.New("refused destination")

const (
	maxRead    = 64 << 10 // bytes of a response that are read, so that its connection can be used again
	maxExcerpt = 1 << 10  // bytes of a response that an error shows
	minAfter   = time.Second
	patience   = 24 * time.Hour // how long after its publication a task is put off for free
)

// Deliverer posts webhooks. Connections are kept for 30 s. Make one with [New].
type Deliverer struct {
	timeout time.Duration
	ports   []uint16
	keys    map[string][]*standardwebhooks.Webhook
	guard   *ssrf.Guardian
	dialer  *net.Dialer
	client  *http.Client
}

// Deliver posts one event. It is the handler of webhook.deliver.
//
// Permanent are: malformed arguments, a destination that is refused (see
// [ErrRefused]), a redirect, and a 4xx answer other than 408, 409, 425 and 429.
// An answer 429 or 503 with Retry-After puts the task off that long, at least 1 s,
// without burning an attempt, until a day after its publication. Everything else
// that is not 2xx is a plain error. No error shows a secret, or more of the URL
// than scheme and host.
func (d *Deliverer) Deliver(ctx context.Context, args Deliver) error {
	u, err := d.destination(args.URL)
	if err != nil {
		return retry.Permanent(fmt.Errorf("deliver webhook: %w", err))
	}
	where := "deliver webhook to " + u.Scheme + "://" + u.Host
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, fmt.Errorf("not done within %v", d.timeout))
	defer cancel()
	req, err := d.request(ctx, args, u)
	if err != nil {
		return retry.Permanent(fmt.Errorf("%s: %w", where, err))
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", where, failed(ctx, err))
	}
	defer func() { _ = resp.Body.Close() }() // what was needed is read
	if ctx.Err() != nil {                    // a receiver that is told to stop may say 200 while the connection closes
		return fmt.Errorf("%s: %w", where, context.Cause(ctx))
	}
	excerpt := read(resp.Body)
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return fmt.Errorf("%s: %w", where, answer(ctx, resp, excerpt))
}

// failed is the verdict on a request that got no answer.
func failed(ctx context.Context, err error) error {
	err = bare(err)
	switch {
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedPort),
		errors.Is(err, ssrf.ErrProhibitedNetwork), errors.Is(err, ssrf.ErrInvalidHostPort):
		return retry.Permanent(fmt.Errorf("%w: %w", ErrRefused, err))
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// answer is the verdict on an answer that is not 2xx.
func answer(ctx context.Context, resp *http.Response, excerpt string) error {
	code := resp.StatusCode
	err := fmt.Errorf("answered %d%s", code, excerpt)
	switch {
	case code/100 == 3:
		return retry.Permanent(fmt.Errorf("answered %d with location %.200q: redirects are not followed", code, resp.Header.Get("Location")))
	case code == http.StatusGone:
		return retry.Permanent(fmt.Errorf("the receiver is gone: %w", err))
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		if wait, ok := retryAfter(resp.Header.Get("Retry-After")); ok && patient(ctx) {
			return retry.After(max(wait, minAfter), err)
		}
		return err
	case code == http.StatusRequestTimeout, code == http.StatusConflict, code == http.StatusTooEarly:
		return err
	case code/100 == 4:
		return retry.Permanent(err)
	}
	return err
}

// patient reports whether the task is young enough to be put off for free: a
// receiver that always sends Retry-After must not keep it for ever.
func patient(ctx context.Context) bool {
	info, _ := task.FromContext(ctx)
	return info.EnqueuedAt.IsZero() || time.Since(info.EnqueuedAt) < patience
}

// retryAfter reads the seconds or the HTTP date of a Retry-After header.
func retryAfter(v string) (time.Duration, bool) {
	v = strings.TrimSpace(v)
	if t, err := http.ParseTime(v); err == nil {
		return time.Until(t), true
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return time.Duration(min(n, uint64(retry.MaxAfter/time.Second))) * time.Second, true
}

// read returns the begin of a response as one line, with ": " before it, and
// reads on for a while. A response that breaks off has been answered all the same.
func read(body io.Reader) string {
	begin, err := io.ReadAll(io.LimitReader(body, maxExcerpt))
	if err == nil {
		_, _ = io.CopyN(io.Discard, body, maxRead-maxExcerpt)
	}
	line := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(string(begin), ""), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if line == "" {
		return ""
	}
	return ": " + line
}

// Close closes the kept connections. Deliveries under way are not disturbed.
func (d *Deliverer) Close() error {
	d.client.CloseIdleConnections()
	return nil
}
