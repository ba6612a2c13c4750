package dev_test

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/droverhq/drover/tools/dev"
)

func receiver(t *testing.T, o dev.ReceiverOptions) *dev.Receiver {
	t.Helper()
	r, err := dev.ListenHooks(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// deliver posts one signed event and returns the answer, with status 0 when there
// is none within the context.
func deliver(t *testing.T, ctx context.Context, url, secret string) (status int, retryAfter string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signature, err := keys.Sign("1:0", now, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(standardwebhooks.HeaderWebhookID, "1:0")
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode, res.Header.Get("Retry-After")
}

func TestReceiver(t *testing.T) {
	t.Parallel()
	const other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	tests := []struct {
		name, path, secret string
		tell               func(*dev.Receiver)
		status             int
		retryAfter         string
	}{
		{name: "verified", status: 200},
		{name: "signed by another", secret: other, status: 401},
		{name: "by path", path: "/status/418", status: 418},
		{name: "by path, hangs", path: "/hang", status: 0},
		{name: "told to fail", tell: func(r *dev.Receiver) { r.Fail("", dev.Failure{Status: 503, RetryAfter: 2 * time.Second}) }, status: 503, retryAfter: "2"},
		{name: "told to hang", tell: func(r *dev.Receiver) { r.Fail("", dev.Failure{Hang: true}) }, status: 0},
		{name: "another path fails", tell: func(r *dev.Receiver) { r.Fail("/a", dev.Failure{Status: 500}) }, status: 200},
		{name: "this path fails", path: "/a", tell: func(r *dev.Receiver) { r.Fail("/a", dev.Failure{Status: 500}) }, status: 500},
		{name: "mended", tell: func(r *dev.Receiver) { r.Fail("", dev.Failure{Status: 500}); r.Mend("") }, status: 200},
		{name: "failed long enough", tell: func(r *dev.Receiver) {
			r.Fail("", dev.Failure{Status: 500, Until: time.Now().Add(-time.Second)})
		}, status: 200},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			calls := make(chan dev.Call, 1)
			r := receiver(t, dev.ReceiverOptions{Answered: func(c dev.Call) { calls <- c }})
			if test.tell != nil {
				test.tell(r)
			}
			limit := 20 * time.Second
			if test.status == 0 {
				limit = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			secret := dev.Secret
			if test.secret != "" {
				secret = test.secret
			}
			status, after := deliver(t, ctx, r.URL()+test.path, secret)
			if status != test.status || after != test.retryAfter {
				t.Errorf("answer = %d, Retry-After %q, want %d, %q", status, after, test.status, test.retryAfter)
			}
			c := <-calls
			if c.ID != "1:0" || c.Verified != (test.secret == "") || c.Status != test.status {
				t.Errorf("call = %+v", c)
			}
		})
	}
}

func TestReceiverIsToldOverHTTP(t *testing.T) {
	t.Parallel()
	r := receiver(t, dev.ReceiverOptions{})
	tell := func(path string) string {
		t.Helper()
		res, err := http.Post(r.URL()+path, "", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return strconv.Itoa(res.StatusCode) + " " + strings.TrimSpace(string(body))
	}
	for _, test := range []struct {
		tell, want string
		status     int // of a delivery after that
	}{
		{"/-/fail?status=503&retry-after=2s", "200 answers 503, Retry-After 2s", 503},
		{"/-/fail?status=500&for=1h", "200 answers 500", 500},
		{"/-/fail?status=1000", `400 status "1000": want 200 to 599`, 500},
		{"/-/fail", "400 want status=CODE or hang=true", 500},
		{"/-/mend", "200 answers 200", 200},
	} {
		if got := tell(test.tell); got != test.want {
			t.Errorf("POST %s = %s, want %s", test.tell, got, test.want)
		}
		if got, _ := deliver(t, t.Context(), r.URL(), dev.Secret); got != test.status {
			t.Errorf("after POST %s a delivery is answered %d, want %d", test.tell, got, test.status)
		}
	}
	if came, taken := r.Totals(); came != 5 || taken != 1 {
		t.Errorf("Totals() = %d, %d, want 5, 1", came, taken)
	}
}
