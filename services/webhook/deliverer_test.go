package webhook_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/droverhq/drover/services/internal/secret"
	"github.com/droverhq/drover/services/webhook"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
)

func verify(tb testing.TB, r request, key secret.Text) {
	tb.Helper()
	w, err := standardwebhooks.NewWebhook(string(key))
	if err != nil {
		tb.Fatal(err)
	}
	if err := w.Verify([]byte(r.Body), r.Header); err != nil {
		tb.Errorf("signature: %v", err)
	}
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	r := receive(t, nil)
	d := open(t, config(r))
	at := time.Date(2027, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	ctx := inTask(t, task.Info{ID: "01JD7", Generation: 2, Attempt: 1, EnqueuedAt: at})
	args := webhook.Deliver{
		URL: r.URL + "/hooks/7?token=x", Event: "invoice.paid",
		Payload: map[string]any{"z": 1, "a": []any{"<b>&", nil, true, 1.5}, "at": at},
		Headers: map[string]string{"X-Tenant": "acme", "authorization": "Bearer t"},
	}
	if err := d.Deliver(ctx, args); err != nil {
		t.Fatal(err)
	}
	got := r.requests()
	if len(got) != 1 {
		t.Fatalf("%d requests, want 1", len(got))
	}
	verify(t, got[0], newKey)
	want := `{"type":"invoice.paid","timestamp":"2027-01-02T02:04:05.000000006Z","data":{"a":["<b>&",null,true,1.5],"at":"2027-01-02T02:04:05.000000006Z","z":1}}`
	if diff := cmp.Diff(want, got[0].Body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	stamp, err := strconv.ParseInt(got[0].Header.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(stamp, 0)).Abs() > time.Minute {
		t.Errorf("timestamp %q: want now", got[0].Header.Get("Webhook-Timestamp"))
	}
	got[0].Header.Del("Webhook-Timestamp")
	got[0].Header.Del("Webhook-Signature")
	if diff := cmp.Diff(request{
		Header: http.Header{
			"Accept-Encoding": nil, "Authorization": {"Bearer t"}, "Content-Length": {strconv.Itoa(len(want))}, "Content-Type": {"application/json"},
			"User-Agent": {"Drover-Webhook/1"}, "Webhook-Id": {"01JD7:2"}, "X-Tenant": {"acme"},
		}, Host: strings.TrimPrefix(r.URL, "https://"), Path: "/hooks/7?token=x", Proto: 1, Body: want,
	}, got[0], cmp.FilterPath(func(p cmp.Path) bool { return p.String() == `Header` }, cmp.Comparer(sameHeader))); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// sameHeader takes a header without values for none.
func sameHeader(a, b http.Header) bool {
	clean := func(h http.Header) http.Header {
		out := http.Header{}
		for k, v := range h {
			if len(v) > 0 {
				out[k] = v
			}
		}
		return out
	}
	return cmp.Equal(clean(a), clean(b))
}

func TestBody(t *testing.T) {
	t.Parallel()
	r := receive(t, nil)
	d := open(t, config(r))
	for _, tt := range []struct {
		name    string
		event   string
		payload any
		want    string
	}{
		{"object", "", map[string]any{"b": 1, "a": "ü"}, `{"a":"ü","b":1}`},
		{"list", "", []any{1, "x"}, `[1,"x"]`},
		{"text", "", "x", `"x"`},
		{"nothing", "", nil, `null`},
		{"event of nothing", "ping", nil, `{"type":"ping","data":null}`},
		{"large numbers", "", []any{uint64(math.MaxUint64), int64(math.MinInt64), 0.1}, `[18446744073709551615,-9223372036854775808,0.1]`},
		{"bytes", "", []byte("drover"), `"ZHJvdmVy"`},
		{"event is quoted", `a"},"x":{"`, nil, `{"type":"a\"},\"x\":{\"","data":null}`},
	} {
		t.Run(tt.name, func(t *testing.T) { // one after the other: they share the receiver
			body, err := task.Marshal(webhook.Deliver{URL: r.URL, Event: tt.event, Payload: tt.payload})
			if err != nil {
				t.Fatal(err)
			}
			var args webhook.Deliver
			if err := task.Unmarshal(body, &args); err != nil {
				t.Fatal(err)
			}
			if err := d.Deliver(t.Context(), args); err != nil {
				t.Fatal(err)
			}
			all := r.requests()
			if diff := cmp.Diff(tt.want, all[len(all)-1].Body); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTimesDoNotDependOnTheZone(t *testing.T) {
	t.Parallel()
	r := receive(t, nil)
	d := open(t, config(r))
	at := time.Date(2027, 7, 2, 3, 4, 5, 0, time.UTC)
	for _, zone := range []*time.Location{time.UTC, time.FixedZone("", 7200), time.Local} {
		payload := map[string]any{"at": at.In(zone), "deep": []any{map[string]any{"at": at.In(zone)}}}
		if err := d.Deliver(inTask(t, task.Info{ID: "1", EnqueuedAt: at.In(zone)}), webhook.Deliver{URL: r.URL, Event: "e", Payload: payload}); err != nil {
			t.Fatal(err)
		}
	}
	got := r.requests()
	if got[0].Body != got[1].Body || got[0].Body != got[2].Body {
		t.Errorf("bodies differ:\n%s\n%s\n%s", got[0].Body, got[1].Body, got[2].Body)
	}
}

func TestRetriesLookTheSame(t *testing.T) {
	t.Parallel()
	r := receive(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	d := open(t, config(r))
	args := webhook.Deliver{URL: r.URL, Event: "e", Payload: map[string]any{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}}
	for attempt := range 5 {
		if err := d.Deliver(inTask(t, task.Info{ID: "order 17.x", Attempt: attempt}), args); err == nil {
			t.Fatal("Deliver answered 500 succeeds")
		}
	}
	if err := d.Deliver(inTask(t, task.Info{ID: "order 17.x", Generation: 1}), args); err == nil {
		t.Fatal("Deliver answered 500 succeeds")
	}
	got := r.requests()
	for _, g := range got[:5] {
		verify(t, g, newKey)
		if g.Body != got[0].Body || g.Header.Get("Webhook-Id") != got[0].Header.Get("Webhook-Id") {
			t.Errorf("an attempt differs: %v, %v", g, got[0])
		}
	}
	first, redriven := got[0].Header.Get("Webhook-Id"), got[5].Header.Get("Webhook-Id")
	if first == redriven || strings.ContainsAny(first, " .") {
		t.Errorf("id %q, redriven %q", first, redriven)
	}
}

func TestSecretRotation(t *testing.T) {
	t.Parallel()
	r := receive(t, nil)
	c := config(r)
	c.Secrets = "acme=" + newKey + ", acme=" + oldKey + ",default=" + oldKey
	d := open(t, c)
	if err := errors.Join(
		d.Deliver(t.Context(), webhook.Deliver{URL: r.URL, Secret: "acme"}),
		d.Deliver(t.Context(), webhook.Deliver{URL: r.URL}),
	); err != nil {
		t.Fatal(err)
	}
	got := r.requests()
	verify(t, got[0], newKey)
	verify(t, got[0], oldKey)
	verify(t, got[1], oldKey)
	if n := len(strings.Fields(got[1].Header.Get("Webhook-Signature"))); n != 1 {
		t.Errorf("%d signatures, want 1", n)
	}
	err := d.Deliver(t.Context(), webhook.Deliver{URL: r.URL, Secret: "nobody"})
	if !retry.IsPermanent(err) || !strings.Contains(err.Error(), `no secret is named "nobody"`) {
		t.Errorf("Deliver with an unknown secret = %v", err)
	}
	err = d.Deliver(t.Context(), webhook.Deliver{URL: r.URL, Secret: string(newKey)})
	if !retry.IsPermanent(err) || strings.Contains(err.Error(), string(newKey[:12])) {
		t.Errorf("Deliver with a secret in place of its name = %v", err)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	r := receive(t, nil)
	d := open(t, config(r))
	many := map[string]string{}
	for i := range 33 {
		many[fmt.Sprintf("X-%d", i)] = "x"
	}
	bad := []map[string]string{
		{"Host": "evil"},
		{"host": "evil"},
		{"Content-Length": "1"},
		{"Content-Type": "text/plain"},
		{"content-encoding": "gzip"},
		{"Transfer-Encoding": "chunked"},
		{"TE": "trailers"},
		{"Trailer": "x"},
		{"Connection": "close"},
		{"Keep-Alive": "x"},
		{"Upgrade": "h2c"},
		{"HTTP2-Settings": "x"},
		{"Expect": "100-continue"},
		{"Proxy-Authorization": "x"},
		{"Proxy-Connection": "x"},
		{"User-Agent": "x"},
		{"Accept-Encoding": "gzip"},
		{"webhook-id": "x"},
		{"Webhook-Signature": "x"},
		{"WEBHOOK-TIMESTAMP": "0"},
		{"Webhook-Anything": "x"},
		{"": "x"},
		{"X A": "x"},
		{"X:A": "x"},
		{":authority": "x"},
		{"X\r\nY": "x"},
		{"X-Ü": "x"},
		{"X\x00": "x"},
		{strings.Repeat("x", 200): "x"},
		{"X-A": "hunter2\r\nX-B: y"},
		{"X-A": "hunter2\n"},
		{"X-A": "hunter2\r"},
		{"X-A": "hunter2\x00"},
		{"X-A": "hunter2\x7f"},
		{"X-A": "hunter2 ü"},
		{"X-A": "hunter2" + strings.Repeat("x", 5000)},
		{"X-A": "1", "x-a": "2"},
		many,
	}
	for _, h := range bad {
		err := d.Deliver(t.Context(), webhook.Deliver{URL: r.URL, Headers: h})
		if !retry.IsPermanent(err) || !strings.Contains(err.Error(), "header") {
			t.Errorf("Deliver with headers %.60q = %v", fmt.Sprint(h), err)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.ContainsAny(err.Error(), "\r\n\x00")) {
			t.Errorf("the error shows too much: %q", err)
		}
	}
	if n := r.conns.Load(); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
	good := map[string]string{"Authorization": "Bearer x", "x-trace": "a\tb", "Cookie": "a=b", "Idempotency-Key": "k", "Accept": "*/*", "X-Empty": ""}
	if err := d.Deliver(t.Context(), webhook.Deliver{URL: r.URL, Headers: good}); err != nil {
		t.Fatal(err)
	}
	for name, value := range good {
		if got := r.requests()[0].Header.Values(name); len(got) != 1 || got[0] != value {
			t.Errorf("header %s arrived as %q", name, got)
		}
	}
}

func TestBadPayload(t *testing.T) {
	t.Parallel()
	r := receive(t, nil)
	d := open(t, config(r))
	for name, payload := range map[string]any{
		"not a number": map[string]any{"x": math.NaN()},
		"infinite":     math.Inf(1),
		"a channel":    make(chan int),
		"too large":    strings.Repeat("x", 1<<20),
	} {
		if err := d.Deliver(t.Context(), webhook.Deliver{URL: r.URL, Payload: payload}); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "payload: ") {
			t.Errorf("Deliver a payload that is %s = %v", name, err)
		}
	}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	t.Run("are used again", func(t *testing.T) {
		t.Parallel()
		r := receive(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, strings.Repeat("x", 60_000))
		})
		d := open(t, config(r))
		for range 10 {
			if err := d.Deliver(t.Context(), webhook.Deliver{URL: r.URL}); err == nil {
				t.Fatal("Deliver answered 418 succeeds")
			}
		}
		if n := r.conns.Load(); n != 1 {
			t.Errorf("10 deliveries took %d connections, want 1", n)
		}
	})
	t.Run("that are dead burn no attempt", func(t *testing.T) {
		t.Parallel()
		var n atomic.Int64
		r := receive(t, func(http.ResponseWriter, *http.Request) {
			if n.Add(1) == 2 { // hang up without an answer, on the kept connection
				panic(http.ErrAbortHandler)
			}
		})
		d := open(t, config(r))
		for range 2 {
			if err := d.Deliver(t.Context(), webhook.Deliver{URL: r.URL}); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.requests(); len(got) != 3 || got[1].Body != got[2].Body || got[1].Header.Get("Webhook-Id") != got[2].Header.Get("Webhook-Id") {
			t.Errorf("%d requests: %v", len(got), got)
		}
	})
	t.Run("speak HTTP/2", func(t *testing.T) {
		t.Parallel()
		r := receive(t, nil, func(s *httptest.Server) { s.EnableHTTP2 = true })
		d := open(t, config(r))
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := d.Deliver(inTask(t, task.Info{ID: strconv.Itoa(i)}), webhook.Deliver{URL: r.URL, Payload: i}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got := r.requests()
		if len(got) != 20 {
			t.Fatalf("%d requests, want 20", len(got))
		}
		for _, g := range got {
			verify(t, g, newKey)
			if g.Proto != 2 || g.Header.Get("Webhook-Id") != g.Body+":0" {
				t.Errorf("HTTP/%d, id %q, body %q", g.Proto, g.Header.Get("Webhook-Id"), g.Body)
			}
		}
	})
	t.Run("need a certificate that is trusted", func(t *testing.T) {
		t.Parallel()
		r := receive(t, nil)
		c := config(r)
		c.CA = ""
		err := open(t, c).Deliver(t.Context(), webhook.Deliver{URL: r.URL})
		if err == nil || retry.IsPermanent(err) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("Deliver = %v", err)
		}
	})
	t.Run("are refused", func(t *testing.T) {
		t.Parallel()
		r := receive(t, nil)
		c := config(r)
		r.server.Close()
		err := open(t, c).Deliver(t.Context(), webhook.Deliver{URL: r.URL + "/topsecret"})
		if err == nil || retry.IsPermanent(err) || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("Deliver = %v", err)
		}
	})
	t.Run("to a name that is unknown", func(t *testing.T) {
		t.Parallel()
		d := open(t, webhook.Config{Secrets: "default=" + newKey})
		d.SetResolver(resolver(t, func(string) []netip.Addr { return nil }))
		err := d.Deliver(t.Context(), webhook.Deliver{URL: "https://nobody.test/topsecret"})
		if err == nil || retry.IsPermanent(err) || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("Deliver = %v, want a plain error: names come and go", err)
		}
	})
}
