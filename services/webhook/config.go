package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"time"

	"code.dny.dev/ssrf"

	"github.com/droverhq/drover/services/internal/secret"
	"github.com/droverhq/drover/shared/breaker"
)

// Config says which secrets there are and where deliveries may go. It can be
// embedded in the command line of a kong program. The zero value can deliver
// nothing, because every delivery is signed.
type Config struct {
	// Secrets are taken apart by New, not while the command line is read: kong quotes
	// the environment in its errors.
	Secrets     secret.Text    `name:"webhook-secrets" env:"DROVER_WEBHOOK_SECRETS" placeholder:"NAME=WHSEC,..." help:"Secrets to sign with. A name given twice signs with both, for rotation. Better set in the environment: other users of the machine can read a command line."`
	SecretsFile string         `name:"webhook-secrets-file" env:"DROVER_WEBHOOK_SECRETS_FILE" placeholder:"FILE" help:"More secrets, one NAME=WHSEC per line; # begins a comment."`
	Allow       []netip.Prefix `name:"webhook-allow" env:"DROVER_WEBHOOK_ALLOW" placeholder:"CIDR,..." help:"Addresses to deliver to although they are not public, such as 127.0.0.0/8 for development."`
	Ports       []uint16       `name:"webhook-ports" env:"DROVER_WEBHOOK_PORTS" default:"443" placeholder:"PORT,..." help:"Ports to deliver to. http URLs need one that is not 443."`
	CA          string         `name:"webhook-ca" env:"DROVER_WEBHOOK_CA" placeholder:"FILE" help:"PEM file of authorities to trust beside the system's."`

	// Timeout bounds one delivery, from looking up the name to the end of the
	// response: how long a receiver that never answers holds a slot. 0 means 5 s.
	Timeout time.Duration `name:"webhook-timeout" env:"DROVER_WEBHOOK_TIMEOUT" default:"5s" help:"Limit for one delivery."`

	// BreakerFailures and BreakerOpen are of the breaker of each host, as
	// [breaker.Policy] has them.
	BreakerFailures int           `name:"webhook-breaker-failures" env:"DROVER_WEBHOOK_BREAKER_FAILURES" default:"10" placeholder:"N" help:"Leave a host alone once so many deliveries to it have failed within a minute, and half of all; 0 for never. The default is 10."`
	BreakerOpen     time.Duration `name:"webhook-breaker-open" env:"DROVER_WEBHOOK_BREAKER_OPEN" default:"5m" help:"How long to leave it alone before it is probed."`
}

const (
	dialLimit       = 5 * time.Second // and the same again for TLS
	idleLimit       = 30 * time.Second
	maxHeaderBytes  = 64 << 10 // of a response
	defaultPort     = 443
	defaultDelivery = 5 * time.Second
)

// azureHost is reachable from every virtual machine of its cloud, and hands out
// their configuration, from an address that is not reserved.
var azureHost = netip.MustParsePrefix("168.63.129.16/32")

// New returns a Deliverer, or an error that names every mistake in c.
func New(c Config) (*Deliverer, error) {
	if c.Timeout == 0 {
		c.Timeout = defaultDelivery
	}
	if len(c.Ports) == 0 {
		c.Ports = []uint16{defaultPort}
	}
	var errs []error
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout %v is negative", c.Timeout))
	}
	if slices.Contains(c.Ports, 0) {
		errs = append(errs, errors.New("port 0 is no port"))
	}
	if err := (breaker.Policy{Failures: c.BreakerFailures, Open: c.BreakerOpen}).Validate(); err != nil {
		errs = append(errs, err)
	}
	keys, err := c.keys()
	errs = append(errs, err)
	roots, err := c.roots()
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("configure webhook: %w", err)
	}

	guard := c.guard()
	dialer := &net.Dialer{Timeout: dialLimit, Control: guard.Safe}
	return &Deliverer{
		timeout: c.Timeout, ports: c.Ports, keys: keys, guard: guard, dialer: dialer,
		client: &http.Client{
			Transport: &http.Transport{ // without Proxy: a proxy would connect past the guard
				DialContext:            dialer.DialContext,
				TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
				TLSHandshakeTimeout:    dialLimit,
				IdleConnTimeout:        idleLimit,
				MaxIdleConns:           100,
				MaxIdleConnsPerHost:    4,
				MaxResponseHeaderBytes: maxHeaderBytes,
				DisableCompression:     true, // a small response must not become a large one
				ForceAttemptHTTP2:      true,
				HTTP2:                  &http.HTTP2Config{SendPingTimeout: dialLimit, PingTimeout: dialLimit}, // finds dead connections
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (c *Config) guard() *ssrf.Guardian {
	var v4, v6 []netip.Prefix
	for _, p := range c.Allow {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	return ssrf.New(ssrf.WithPorts(c.Ports...), ssrf.WithDeniedV4Prefixes(azureHost),
		ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
}

// roots is nil, which means the system's, when no file is named.
func (c *Config) roots() (*x509.CertPool, error) {
	if c.CA == "" {
		return nil, nil //nolint:nilnil // see above
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("authorities: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil { // a machine without any
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authorities: %s holds no PEM certificate", c.CA)
	}
	return pool, nil
}
