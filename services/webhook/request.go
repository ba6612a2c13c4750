package webhook

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/droverhq/drover/shared/task"
)

const (
	userAgent  = "Drover-Webhook/1"
	maxURL     = 4 << 10 // bytes
	maxBody    = 1 << 20 // bytes of JSON
	maxHeaders = 32
	maxHeader  = 4 << 10 // bytes of one value
)

// request makes the signed request of one attempt. Every error is a mistake in
// args, or in the configuration that they need.
func (d *Deliverer) request(ctx context.Context, args Deliver, u *url.URL) (*http.Request, error) {
	name := args.Secret
	if name == "" {
		name = noName
	}
	keys := d.keys[name]
	if strings.HasPrefix(name, secretPrefix) {
		return nil, errors.New("the task holds a secret where its name belongs: consider it known, and replace it")
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no secret is named %.64q: add it to DROVER_WEBHOOK_SECRETS, then redrive", name)
	}
	header, err := headers(args.Headers)
	if err != nil {
		return nil, err
	}
	info, isTask := task.FromContext(ctx)
	body, err := encode(args, info.EnqueuedAt)
	if err != nil {
		return nil, err
	}

	id := "msg_" + rand.Text()
	if isTask {
		id = task.Token(info.ID) + ":" + strconv.Itoa(info.Generation)
	}
	now := time.Now()
	var signatures []string
	for _, k := range keys {
		s, err := k.Sign(id, now, body)
		if err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
		signatures = append(signatures, s)
	}
	header.Set(standardwebhooks.HeaderWebhookID, id)
	header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", userAgent)
	if header["Idempotency-Key"] == nil {
		// Not sent, but net/http may then repeat the request when a kept
		// connection turns out dead; the receiver has the id to tell.
		header["Idempotency-Key"] = []string{}
	}

	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, bare(err)
	}
	r.Header = header
	return r, nil
}

// destination parses a URL and refuses what can be refused before any name is
// looked up. What a name resolves to is judged by the dialer.
func (d *Deliverer) destination(raw string) (*url.URL, error) {
	if len(raw) > maxURL {
		return nil, fmt.Errorf("the url has %d bytes, %d are allowed", len(raw), maxURL)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("url: %w", bare(err))
	}
	port := uint64(defaultPort)
	switch u.Scheme {
	case "https":
	case "http":
		port = 80
	default:
		return nil, fmt.Errorf("%w: scheme %.20q is not https", ErrRefused, u.Scheme)
	}
	host := strings.TrimSuffix(u.Hostname(), ".")
	if host == "" || u.Opaque != "" {
		return nil, fmt.Errorf("%w: the url names no host", ErrRefused)
	}
	if u.User != nil {
		return nil, fmt.Errorf("%w: the url holds a user or password: send a header instead", ErrRefused)
	}
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil {
			return nil, fmt.Errorf("%w: port %.20q is no port", ErrRefused, p)
		}
	}
	if !slices.Contains(d.ports, uint16(port)) {
		return nil, fmt.Errorf("%w: %s to port %d: DROVER_WEBHOOK_PORTS allows %v", ErrRefused, u.Scheme, port, d.ports)
	}
	if u.Scheme == "http" && port == defaultPort {
		return nil, fmt.Errorf("%w: http to port 443", ErrRefused)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if err := d.guard.SafeAddr(addr.Unmap()); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
	} else if endsInNumber(host) {
		return nil, fmt.Errorf("%w: %.64q is neither a name nor an address in its usual form", ErrRefused, host)
	}
	return u, nil
}

// endsInNumber reports whether some resolver may read host as an IPv4 address:
// 127.1, 0x7f000001, 017700000001.
func endsInNumber(host string) bool {
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// reserved are the headers that this package sets, that HTTP keeps for the two
// ends of one connection, or that decide where and how long a request is.
var reserved = map[string]bool{
	"Accept-Encoding": true, "Connection": true, "Content-Encoding": true, "Content-Length": true,
	"Content-Type": true, "Expect": true, "Host": true, "Http2-Settings": true, "Keep-Alive": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "User-Agent": true,
}

// headers checks the headers of a task. Its errors show names, never values.
func headers(in map[string]string) (http.Header, error) {
	if len(in) > maxHeaders {
		return nil, fmt.Errorf("%d headers, %d are allowed", len(in), maxHeaders)
	}
	out := make(http.Header, len(in)+5)
	for name, value := range in {
		key := http.CanonicalHeaderKey(name)
		switch {
		case name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return !tokenRune(r) }):
			return nil, fmt.Errorf("header %.64q: that is not a header name", name)
		case reserved[key] || strings.HasPrefix(key, "Webhook-") || strings.HasPrefix(key, "Proxy-"):
			return nil, fmt.Errorf("header %s must not be set by a task", key)
		case out[key] != nil:
			return nil, fmt.Errorf("header %s is there twice", key)
		case len(value) > maxHeader:
			return nil, fmt.Errorf("header %s: the value has %d bytes, %d are allowed", key, len(value), maxHeader)
		case strings.ContainsFunc(value, func(r rune) bool { return r != '\t' && (r < ' ' || r > '~') }):
			return nil, fmt.Errorf("header %s: the value has a character that is not printable ASCII", key)
		}
		out[key] = []string{value}
	}
	return out, nil
}

func tokenRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// event is the body of a delivery that names its event, as Standard Webhooks
// recommends it.
type event struct {
	Type      string     `json:"type"`
	Timestamp *time.Time `json:"timestamp,omitempty"` // when the task was published
	Data      any        `json:"data"`
}

// encode returns the JSON body, byte for byte the same in every attempt and every
// process.
func encode(args Deliver, at time.Time) ([]byte, error) {
	body := inUTC(args.Payload)
	if args.Event != "" {
		e := event{Type: args.Event, Data: body}
		if !at.IsZero() {
			at = at.UTC()
			e.Timestamp = &at
		}
		body = e
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b) // sorts the keys of maps
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(out) > maxBody {
		return nil, fmt.Errorf("payload: %d bytes of JSON, %d are allowed", len(out), maxBody)
	}
	return out, nil
}

// inUTC returns v with its times in UTC. msgpack reads them in the time zone of
// the process.
func inUTC(v any) any {
	switch v := v.(type) {
	case time.Time:
		return v.UTC()
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = inUTC(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = inUTC(e)
		}
		return out
	}
	return v
}

// bare is err without the URL that net/url and net/http quote: its path and query
// are often a secret.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
