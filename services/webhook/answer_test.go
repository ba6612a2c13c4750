package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/services/webhook"
	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
)

func TestAnswers(t *testing.T) {
	t.Parallel()
	const (
		done = iota
		again
		permanent
	)
	for code, want := range map[int]int{
		200: done, 201: done, 202: done, 204: done, 299: done,
		400: permanent, 401: permanent, 403: permanent, 404: permanent, 405: permanent, 410: permanent, 413: permanent, 415: permanent, 418: permanent, 422: permanent, 451: permanent, 499: permanent,
		408: again, 409: again, 425: again, 429: again,
		500: again, 501: again, 502: again, 503: again, 504: again, 507: again, 599: again,
	} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			r := receive(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(code)
				_, _ = io.WriteString(w, "line 1\r\nline\x002\n")
			})
			err := open(t, config(r)).Deliver(t.Context(), webhook.Deliver{URL: r.URL + "/path?token=topsecret"})
			if (err == nil) != (want == done) || retry.IsPermanent(err) != (want == permanent) {
				t.Fatalf("Deliver = %v, permanent %v", err, retry.IsPermanent(err))
			}
			if _, ok := retry.AsAfter(err); ok {
				t.Error("the error asks for a later time")
			}
			if err == nil {
				return
			}
			if !strings.HasPrefix(err.Error(), "deliver webhook to "+r.URL+": ") || !strings.HasSuffix(err.Error(), fmt.Sprintf("answered %d: line 1 line 2", code)) {
				t.Errorf("Deliver = %q", err)
			}
			if code == http.StatusGone && !strings.Contains(err.Error(), "the receiver is gone") {
				t.Errorf("Deliver = %q", err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	const none = -1
	for _, tt := range []struct {
		name   string
		code   int
		header string
		age    time.Duration // of the task
		want   time.Duration
	}{
		{"429, seconds", 429, "120", 0, 2 * time.Minute},
		{"503, seconds", 503, " 7 ", 0, 7 * time.Second},
		{"429, date", 429, "in 90 s", 0, 90 * time.Second},
		{"503, date", 503, "in 90 s", 0, 90 * time.Second},
		{"a date that has passed", 429, "Wed, 21 Oct 2015 07:28:00 GMT", 0, time.Second},
		{"no time at all", 429, "0", 0, time.Second},
		{"more than a day", 429, "864000", 0, 24 * time.Hour},
		{"more than fits", 429, "99999999999999999999999", 0, 24 * time.Hour},
		{"more than a duration holds", 429, "18446744073709551615", 0, 24 * time.Hour},
		{"negative", 429, "-5", 0, none},
		{"a fraction", 429, "1.5", 0, none},
		{"not a time", 429, "soon", 0, none},
		{"empty", 429, "", 0, none},
		{"500", 500, "120", 0, none},
		{"a young task", 429, "120", 23 * time.Hour, 2 * time.Minute},
		{"an old task", 429, "120", 25 * time.Hour, none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := receive(t, func(w http.ResponseWriter, _ *http.Request) {
				h := tt.header
				if h == "in 90 s" {
					h = time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)
				}
				w.Header().Set("Retry-After", h)
				w.WriteHeader(tt.code)
			})
			info := task.Info{ID: "1"}
			if tt.age != 0 {
				info.EnqueuedAt = time.Now().Add(-tt.age)
			}
			err := open(t, config(r)).Deliver(inTask(t, info), webhook.Deliver{URL: r.URL})
			if err == nil || retry.IsPermanent(err) {
				t.Fatalf("Deliver = %v", err)
			}
			got, ok := retry.AsAfter(err)
			if ok != (tt.want != none) {
				t.Fatalf("Deliver = %v", err)
			}
			if ok && (got > tt.want || got < tt.want-5*time.Second) { // a date has whole seconds
				t.Errorf("after %v, want %v", got, tt.want)
			}
		})
	}
}

func TestResponseBody(t *testing.T) {
	t.Parallel()
	endless := func(w http.ResponseWriter, in *http.Request) {
		for in.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 4096)); err != nil {
				return
			}
		}
	}
	t.Run("endless, 500", func(t *testing.T) {
		t.Parallel()
		r := receive(t, func(w http.ResponseWriter, in *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			endless(w, in)
		})
		err := open(t, config(r)).Deliver(t.Context(), webhook.Deliver{URL: r.URL})
		if n := strings.Count(fmt.Sprint(err), "x"); n < 1024 || n > 1034 {
			t.Errorf("the error shows %d bytes of the response, want 1024", n)
		}
	})
	t.Run("endless, 200", func(t *testing.T) {
		t.Parallel()
		r := receive(t, endless)
		if err := open(t, config(r)).Deliver(t.Context(), webhook.Deliver{URL: r.URL}); err != nil {
			t.Error(err)
		}
	})
	t.Run("breaks off, 200", func(t *testing.T) {
		t.Parallel()
		r := receive(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "x")
		})
		if err := open(t, config(r)).Deliver(t.Context(), webhook.Deliver{URL: r.URL}); err != nil {
			t.Error(err)
		}
	})
	t.Run("not text", func(t *testing.T) {
		t.Parallel()
		r := receive(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "\xff\xfe\x1b[31mred\u202e\x00")
		})
		err := open(t, config(r)).Deliver(t.Context(), webhook.Deliver{URL: r.URL})
		if err == nil || !strings.HasSuffix(err.Error(), "answered 400: [31mred") {
			t.Errorf("Deliver = %q", err)
		}
	})
}

func TestSlow(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) }) // before the servers are closed
	wait := func(in *http.Request) {
		select {
		case <-in.Context().Done():
		case <-release:
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"no answer": func(_ http.ResponseWriter, in *http.Request) { wait(in) },
		"half an answer": func(w http.ResponseWriter, in *http.Request) {
			c, b, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			_, _ = b.WriteString("HTTP/1.1 200 OK\r\nX-Slow:")
			_ = b.Flush()
			<-release
			_ = c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config(receive(t, answer))
			c.Timeout = 100 * time.Millisecond
			start := time.Now()
			err := open(t, c).Deliver(t.Context(), webhook.Deliver{URL: fmt.Sprintf("https://127.0.0.1:%d/", c.Ports[0])})
			if err == nil || retry.IsPermanent(err) || !strings.Contains(err.Error(), "not done within 100ms") {
				t.Errorf("Deliver = %v", err)
			}
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("Deliver took %v", d)
			}
		})
	}
	t.Run("slow body of an answer", func(t *testing.T) {
		t.Parallel()
		r := receive(t, func(w http.ResponseWriter, in *http.Request) {
			_, _ = io.WriteString(w, "ok")
			_ = http.NewResponseController(w).Flush()
			wait(in)
		})
		c := config(r)
		c.Timeout = time.Second // enough to connect on a busy machine
		if err := open(t, c).Deliver(t.Context(), webhook.Deliver{URL: r.URL}); err != nil {
			t.Errorf("Deliver answered 200 = %v", err)
		}
	})
	t.Run("accepts and is silent", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0") // the system accepts for it
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		c := webhook.Config{Secrets: "default=" + newKey, Allow: []netip.Prefix{loopback}, Timeout: 100 * time.Millisecond}
		c.Ports = []uint16{portOf(t, "https://"+l.Addr().String())}
		err = open(t, c).Deliver(t.Context(), webhook.Deliver{URL: "https://" + l.Addr().String()})
		if err == nil || retry.IsPermanent(err) || !strings.Contains(err.Error(), "not done within 100ms") {
			t.Errorf("Deliver = %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		cause := errors.New("drain")
		ctx, cancel := context.WithCancelCause(t.Context())
		r := receive(t, func(_ http.ResponseWriter, in *http.Request) {
			cancel(cause)
			wait(in)
		})
		if err := open(t, config(r)).Deliver(ctx, webhook.Deliver{URL: r.URL}); !errors.Is(err, cause) || retry.IsPermanent(err) {
			t.Errorf("Deliver = %v, want the cause of the cancellation", err)
		}
	})
}
