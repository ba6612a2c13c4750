package doctor

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/broker"
)

// diagnose tells apart why there is no connection. err is that of connecting.
func diagnose(err error, targets []target, host Host) Finding {
	where := make([]string, len(targets))
	seen := make([]string, 0, len(targets)+1)
	for i, t := range targets {
		where[i] = t.url
		state := "something listens"
		if t.err != nil {
			state = t.err.Error()
		}
		seen = append(seen, t.url+": "+state)
	}
	object := strings.Join(where, ", ")
	if d, ok := errors.AsType[*broker.DeniedError](err); ok {
		return deaf(object, d.Subject)
	}
	f := classify(err, targets, host, object)
	if f.Name != "broker-refused" && f.Name != "broker-localhost" {
		seen = append(seen, "connecting: "+err.Error())
	}
	f.Evidence = append(seen, f.Evidence...)
	return f.follows("Nothing can be published and no worker gets a task; what the broker has stored stays there.")
}

func classify(err error, targets []target, host Host, object string) Finding {
	errs := []error{err}
	for _, t := range targets {
		errs = append(errs, t.err)
	}
	all := errors.Join(errs...)
	listens := slices.ContainsFunc(targets, func(t target) bool { return t.err == nil })
	timeout := slices.ContainsFunc(errs, isTimeout)
	sign := host.container()
	switch {
	case errors.Is(err, broker.ErrTooOld):
		return find("broker-too-old", object, "the broker is older than Drover works with", 0).
			remedy("upgrade nats-server to " + broker.MinVersion + " or newer")
	case errors.Is(err, broker.ErrNoJetStream):
		return find("jetstream-off", object, "the broker has JetStream turned off, or has turned it off because its disk is full or failing", 0).
			remedy("look at the log of nats-server for \"JetStream\" and at the free space of its store_dir",
				"add `jetstream {}` to the configuration of nats-server, or enable it for the account")
	case anyError(err, nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired):
		return find("broker-credentials", object, "the broker is there and refuses these credentials", 0).
			remedy("name credentials with --creds FILE or --nkey FILE, or DROVER_CREDS or DROVER_NKEY", "if they are the right ones: see whether they have expired or the account is gone")
	case !listens && sign != "" && slices.ContainsFunc(targets, func(t target) bool { return loopback(t.host) }):
		return find("broker-localhost", object, "this is a container, and localhost is the container itself: no broker is in it", 0).
			seen(sign).
			remedy("DROVER_NATS_URL=nats://nats:4222   # the broker's name on the network of the containers",
				"DROVER_NATS_URL=nats://host.docker.internal:4222   # a broker on the host; with podman host.containers.internal",
				"drover up   # if broker and fleet are meant to run in this container")
	case isTLS(err):
		return find("broker-tls", object, "the broker is there, and TLS with it fails", 0).
			remedy("use tls://HOST:PORT with the name that the certificate is for", "trust its authority: SSL_CERT_FILE=ca.pem")
	case listens && errors.Is(err, nats.ErrNoInfoReceived):
		return find("broker-not-nats", object, "what listens there is not NATS", 0).
			remedy("name the client port of nats-server, 4222 unless it was changed: --nats nats://HOST:4222")
	case isDNS(all):
		return find("broker-name", object, "the name of the broker does not resolve", 0).
			remedy("correct the name in --nats or DROVER_NATS_URL, or see to the DNS of this machine")
	case !listens && timeout:
		return find("broker-timeout", object, "nothing answers at the broker's address, not even a refusal: the machine is down or a firewall drops it", 0).
			remedy("see that the machine runs and that its port is open from here: `nc -vz HOST 4222`")
	case !listens:
		return find("broker-refused", object, "no broker listens at this address", 0).
			remedy("drover up   # broker and fleet on this machine", "name another address with --nats or DROVER_NATS_URL")
	case timeout:
		return find("broker-timeout", object, "something listens and does not speak: the broker hangs, or wants TLS first", 0).
			remedy("look at the log of nats-server", "use tls:// if it wants TLS first")
	}
	return find("broker-unreachable", object, "the broker cannot be connected to", 0).remedy("look at the evidence and the log of nats-server")
}

func anyError(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func isDNS(err error) bool {
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}

func isTLS(err error) bool {
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	_, verify := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	return unknown || name || invalid || verify || record ||
		anyError(err, nats.ErrSecureConnRequired, nats.ErrSecureConnWanted) || strings.Contains(err.Error(), "tls: ")
}

// lookBroker is whether there is one.
func lookBroker(s *snapshot) ([]Finding, Check) {
	if s.connectErr != nil {
		f := diagnose(s.connectErr, s.targets, s.host)
		return []Finding{f}, Check{Text: "not reached: nothing else could be looked at"}
	}
	if subject, denied := s.asker.deaf(); denied {
		return []Finding{deaf(s.url, subject)}, Check{Text: s.url + ": its answers cannot be heard"}
	}
	return nil, Check{Text: fmt.Sprintf("%s, nats-server %s%s, answers in %v", s.url, s.version, s.named(), s.rtt.Round(10*time.Microsecond))}
}

// deaf is the finding that answers, which come to subject, may not be heard.
func deaf(object, subject string) Finding {
	inbox, _, _ := strings.Cut(subject, ".")
	return find("inbox-denied", object, "these credentials may not hear answers", 0).
		seen("subscribing to "+subject+" was refused").
		follows("No request of a program with these credentials is answered: Drover's end when they connect.").
		remedy("--nkey FILE   # named as `drover keys` names it, USER.nk: the inbox of USER is _INBOX_USER",
			"allow the user to subscribe to "+inbox+".>")
}
