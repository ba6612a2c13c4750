package webhook_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/services/internal/secret"
	"github.com/droverhq/drover/services/webhook"
	"github.com/droverhq/drover/shared/task"
)

// receiver is a real HTTPS server on a loopback port that keeps what it gets.
type receiver struct {
	URL   string
	Port  uint16
	CA    string // file
	conns atomic.Int64

	server *httptest.Server
	mu     sync.Mutex
	got    []request
}

type request struct {
	Header http.Header
	Host   string
	Path   string
	Proto  int
	Body   string
}

// receive starts a receiver. answer may be nil, which means 204.
func receive(tb testing.TB, answer http.HandlerFunc, tweak ...func(*httptest.Server)) *receiver {
	tb.Helper()
	r := &receiver{CA: filepath.Join(tb.TempDir(), "ca.pem")}
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		body, err := io.ReadAll(in.Body)
		if err != nil {
			return // the other side hung up
		}
		r.mu.Lock()
		r.got = append(r.got, request{in.Header, in.Host, in.URL.RequestURI(), in.ProtoMajor, string(body)})
		r.mu.Unlock()
		if answer == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		answer(w, in)
	}))
	r.server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			r.conns.Add(1)
		}
	}
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that a test breaks off
	for _, f := range tweak {
		f(r.server)
	}
	r.server.StartTLS()
	tb.Cleanup(r.server.Close)
	r.URL = r.server.URL
	r.Port = portOf(tb, r.URL)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})
	if err := os.WriteFile(r.CA, ca, 0o600); err != nil {
		tb.Fatal(err)
	}
	return r
}

func (r *receiver) requests() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]request(nil), r.got...)
}

func portOf(tb testing.TB, raw string) uint16 {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		tb.Fatal(err)
	}
	return uint16(n)
}

var (
	loopback = netip.MustParsePrefix("127.0.0.0/8")
	oldKey   = whsec("old-key-old-key-old-key-")
	newKey   = whsec("new-key-new-key-new-key-")
)

func whsec(raw string) secret.Text {
	return secret.Text("whsec_" + base64.StdEncoding.EncodeToString([]byte(raw)))
}

// config reaches r and nothing else.
func config(r *receiver) webhook.Config {
	return webhook.Config{
		Secrets: "default=" + newKey,
		Allow:   []netip.Prefix{loopback}, Ports: []uint16{r.Port}, CA: r.CA, Timeout: 10 * time.Second,
	}
}

func open(tb testing.TB, c webhook.Config) *webhook.Deliverer {
	tb.Helper()
	d, err := webhook.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	return d
}

func inTask(tb testing.TB, info task.Info) context.Context {
	tb.Helper()
	return task.NewContext(tb.Context(), &info)
}

// resolver answers every query for an address with what lookup says.
func resolver(tb testing.TB, lookup func(name string) []netip.Addr) *net.Resolver {
	tb.Helper()
	var wg sync.WaitGroup
	tb.Cleanup(wg.Wait)
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe() // no packets: each message has its length in front
		wg.Go(func() {
			defer func() { _ = server.Close() }()
			size := make([]byte, 2)
			if _, err := io.ReadFull(server, size); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size))
			if _, err := io.ReadFull(server, query); err != nil {
				return
			}
			out := resolve(query, lookup)
			_, _ = server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
		})
		return client, nil
	}}
}

// resolve answers a DNS query with one question (RFC 1035 §4).
func resolve(query []byte, lookup func(string) []netip.Addr) []byte {
	const header, pointer, in = 12, 0xc00c, 1
	var labels []string
	at := header
	for query[at] != 0 {
		n := int(query[at])
		labels = append(labels, string(query[at+1:at+1+n]))
		at += 1 + n
	}
	kind := binary.BigEndian.Uint16(query[at+1:])
	question := query[header : at+5]
	answers, n := []byte{}, uint16(0)
	for _, a := range lookup(strings.Join(labels, ".")) {
		if want := map[bool]uint16{true: 1, false: 28}[a.Is4()]; want != kind {
			continue
		}
		answers = binary.BigEndian.AppendUint16(answers, pointer)
		answers = binary.BigEndian.AppendUint16(answers, kind)
		answers = binary.BigEndian.AppendUint16(answers, in)
		answers = binary.BigEndian.AppendUint32(answers, 0) // s to live
		answers = binary.BigEndian.AppendUint16(answers, uint16(len(a.AsSlice())))
		answers = append(answers, a.AsSlice()...)
		n++
	}
	out := append([]byte{}, query[:2]...)
	for _, v := range []uint16{0x8180, 1, n, 0, 0} { // answer, recursion available; counts
		out = binary.BigEndian.AppendUint16(out, v)
	}
	return append(append(out, question...), answers...)
}
