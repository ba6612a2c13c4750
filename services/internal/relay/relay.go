// Package relay is the way to the SMTP server that takes mail in for delivery, for
// services that send some.
package relay

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	gomail "github.com/wneessen/go-mail"

	"github.com/droverhq/drover/services/internal/secret"
)

// TLSMode says how the connection to the server is encrypted.
type TLSMode string

// The three modes. None of them falls back to another.
const (
	StartTLS    TLSMode = "starttls" // in clear text first, then encrypted, or not used at all; port 587
	ImplicitTLS TLSMode = "tls"      // encrypted from the first byte; port 465
	NoTLS       TLSMode = "none"     // never encrypted: for a server on this machine
)

// Server is what a service is told of its server. Addr is required; TLS of "" is
// StartTLS.
type Server struct {
	Addr     string // HOST:PORT
	Username string // "" means no login
	Password secret.Text
	TLS      TLSMode
	CA       string // PEM file of the authorities to trust instead of the system's; "" for those
}

// Route is how to reach a server that was checked.
type Route struct {
	Host    string
	Trust   *tls.Config
	Options []gomail.Option // port, encryption and login
}

// Route checks s. The error names every mistake.
func (s Server) Route() (Route, error) {
	host, port, err := s.address()
	trust, terr := s.trust(host)
	mode, merr := s.mode()
	r := Route{Host: host, Trust: trust, Options: []gomail.Option{gomail.WithPort(port), gomail.WithTLSConfig(trust), mode}}
	if s.Username != "" {
		r.Options = append(r.Options, gomail.WithUsername(s.Username), gomail.WithPassword(string(s.Password)),
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	return r, errors.Join(merr, err, terr)
}

func (s Server) address() (host string, port int, err error) {
	if s.Addr == "" {
		return "", 0, errors.New("smtp server is not set: set DROVER_SMTP_ADDR to HOST:PORT")
	}
	host, p, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return "", 0, fmt.Errorf("smtp server: %w", err)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 || host == "" {
		return "", 0, fmt.Errorf("smtp server %q: want HOST:PORT", s.Addr)
	}
	if s.TLS == NoTLS && s.Username != "" && !loopback(host) {
		return "", 0, fmt.Errorf("smtp server %q: a password must not travel unencrypted: set DROVER_SMTP_TLS to starttls or tls", s.Addr)
	}
	return host, int(n), nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (s Server) trust(host string) (*tls.Config, error) {
	t := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if s.CA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		return nil, fmt.Errorf("smtp authorities: %w", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("smtp authorities: %s holds no PEM certificate", s.CA)
	}
	return t, nil
}

func (s Server) mode() (gomail.Option, error) {
	switch s.TLS {
	case ImplicitTLS:
		return gomail.WithSSL(), nil
	case NoTLS:
		return gomail.WithTLSPolicy(gomail.NoTLS), nil
	case StartTLS, "":
		return gomail.WithTLSPolicy(gomail.TLSMandatory), nil
	}
	return nil, fmt.Errorf("smtp tls mode %q: want starttls, tls or none", s.TLS)
}
