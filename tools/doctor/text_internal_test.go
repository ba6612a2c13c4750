package doctor

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/broker"
)

// Whom the text of a failure is about, and what that does.
func TestDestinationOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, host, cause string }{
		{"deliver webhook to https://api.example.com: answered 503: upstream busy", "api.example.com", "answers 503"},
		{"deliver webhook to https://API.example.com:8443: dial tcp 203.0.113.7:8443: connect: connection refused", "api.example.com:8443", "refuses connections"},
		{`Post "http://127.0.0.1:4111/hook": dial tcp 127.0.0.1:4111: connect: connection refused`, "127.0.0.1:4111", "refuses connections"},
		{"https://user:secret@api.example.com/x?token=1: not done within 10s", "api.example.com", "does not answer in time"},
		{"send mail through smtp.example.org:587: connect: dial tcp: lookup smtp.example.org on 10.0.0.2:53: no such host", "smtp.example.org:587", "has a name that does not resolve"},
		{"send mail through localhost:1025: recipient ada@example.com: 450 4.2.0 greylisted", "localhost:1025", "replies 450"},
		{"dial tcp: lookup db on 10.0.0.2:53: no such host", "db", "has a name that does not resolve"},
		{"read tcp 10.0.0.5:51234->203.0.113.9:443: read: connection reset by peer", "203.0.113.9:443", "closes connections"},
		{"dial tcp [2001:db8::1]:443: i/o timeout", "[2001:db8::1]:443", "does not answer in time"},
		{"connection refused by smtp.example.org", "smtp.example.org", "refuses connections"},
		{"550 no such mailbox said mx.example.org", "mx.example.org", "replies 550"},
		{"call api.example.com: tls: failed to verify certificate: x509: certificate has expired", "", "fails in TLS"},
		{"no row of order 17 in the table", "", "fails"},
		{"panic: nil map\ngoroutine 7 [running]:\nmain.f(0x1)\n\t/src/worker.go:123 +0x1d", "", "fails"},
		{"decode argument to ada@example.com at 2026: bad address", "", "fails"},
	} {
		cause, _ := causeOf(tt.text)
		if host := hostOf(tt.text); host != tt.host || cause != tt.cause {
			t.Errorf("of %q: %q %q, want %q %q", tt.text, host, cause, tt.host, tt.cause)
		}
	}
}

// What shows that a process is in a container.
func TestContainer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		host Host
		want bool
	}{
		{"a machine", Host{Cgroup: "0::/init.scope\n"}, false},
		{"docker", Host{DockerEnv: true}, true},
		{"podman", Host{ContainerEnv: true}, true},
		{"systemd-nspawn", Host{Container: "systemd-nspawn"}, true},
		{"kubernetes", Host{Kubernetes: "10.96.0.1"}, true},
		{"cgroup v1", Host{Cgroup: "12:pids:/docker/0123456789ab\n"}, true},
		{"kubernetes, cgroup v1", Host{Cgroup: "11:memory:/kubepods/burstable/pod1\n"}, true},
	} {
		if got := tt.host.container(); (got != "") != tt.want {
			t.Errorf("%s: container = %q, want %v", tt.name, got, tt.want)
		}
	}
}

// Why there is no connection is told apart.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	timeout := &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	unreachable := func(err error) error { return fmt.Errorf("connect: %w (%w)", broker.ErrUnreachable, err) }
	container := Host{DockerEnv: true}
	for _, tt := range []struct {
		name, url string
		err       error // of connecting
		probe     error // of the bare address
		host      Host
		want      string
	}{
		{"refused", "nats://10.0.0.7", unreachable(nats.ErrNoServers), refused, Host{}, "broker-refused"},
		{"refused, in a container", "nats://10.0.0.7", unreachable(nats.ErrNoServers), refused, container, "broker-refused"},
		{"localhost in a container", "nats://localhost:4222", unreachable(nats.ErrNoServers), refused, container, "broker-localhost"},
		{"::1 in a container", "nats://[::1]:4222", unreachable(nats.ErrNoServers), refused, container, "broker-localhost"},
		{"a broker at localhost of a container that refuses", "nats://localhost", nats.ErrAuthorization, nil, container, "broker-credentials"},
		{"no such name", "nats://brokr", unreachable(nats.ErrNoServers), &net.DNSError{Err: "no such host", Name: "brokr"}, Host{}, "broker-name"},
		{"a firewall", "nats://10.0.0.7", unreachable(nats.ErrTimeout), timeout, Host{}, "broker-timeout"},
		{"it hangs", "nats://10.0.0.7", unreachable(timeout), nil, Host{}, "broker-timeout"},
		{"another protocol", "nats://10.0.0.7:80", unreachable(nats.ErrNoInfoReceived), nil, Host{}, "broker-not-nats"},
		{"TLS", "tls://10.0.0.7", unreachable(x509.UnknownAuthorityError{}), nil, Host{}, "broker-tls"},
		{"TLS with a broker at localhost of a container", "tls://localhost", unreachable(x509.UnknownAuthorityError{}), nil, container, "broker-tls"},
		{"wants TLS", "nats://10.0.0.7", unreachable(nats.ErrSecureConnRequired), nil, Host{}, "broker-tls"},
		{"expired", "nats://10.0.0.7", unreachable(nats.ErrAuthExpired), nil, Host{}, "broker-credentials"},
		{"old", "nats://10.0.0.7", fmt.Errorf("%w: 2.9", broker.ErrTooOld), nil, Host{}, "broker-too-old"},
		{"no JetStream", "nats://10.0.0.7", broker.ErrNoJetStream, nil, Host{}, "jetstream-off"},
		{"something else", "nats://10.0.0.7", unreachable(errors.New("it is Friday")), nil, Host{}, "broker-unreachable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			one := parse(tt.url)
			one.err = tt.probe
			f := diagnose(tt.err, []target{one}, tt.host)
			if f.Name != tt.want {
				t.Errorf("diagnose(%v, %v) = %s, want %s", tt.err, tt.probe, f.Name, tt.want)
			}
			complete(t, []Finding{f})
		})
	}
}

// A password in a URL is not shown.
func TestProbeHidesPasswords(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"nats://user:hunter2@127.0.0.1:1", "user:hunter2@127.0.0.1:1", "nats://%zz:hunter2@x"} {
		for _, one := range probe(t.Context(), u) {
			if text := fmt.Sprint(one); strings.Contains(text, "hunter2") {
				t.Errorf("probe(%q) shows %q", u, text)
			}
		}
	}
}
