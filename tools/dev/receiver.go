package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Secret is what deliveries to the receiver are signed with in development. It is
// no secret: it is here.
const Secret = "whsec_ZHJvdmVyIGRldmVsb3BtZW50IHNlY3JldCwgbm90IG9uZQ==" //nolint:gosec // says the comment

// Call is one delivery that the receiver answered, or did not.
type Call struct {
	At       time.Time
	Path     string
	ID       string // webhook-id: the same in every attempt
	Verified bool   // the signature is right
	Status   int    // of the answer; 0 when the caller went away without one
}

// Failure is how the receiver fails. The zero value does not fail.
type Failure struct {
	Status     int           // answered instead of 200; 0 means 200
	RetryAfter time.Duration // said with the answer, in whole seconds; 0 says nothing
	Hang       bool          // never answer
	Until      time.Time     // fails no longer than this; zero means until it is mended
}

// String is the failure in a few words.
func (f Failure) String() string {
	switch {
	case f.Hang:
		return "never answers"
	case f.Status == 0:
		return "answers 200"
	case f.RetryAfter > 0:
		return fmt.Sprintf("answers %d, Retry-After %v", f.Status, f.RetryAfter)
	}
	return fmt.Sprintf("answers %d", f.Status)
}

func (f Failure) over() bool { return !f.Until.IsZero() && time.Now().After(f.Until) }

// ReceiverOptions say how a [Receiver] behaves.
type ReceiverOptions struct {
	Port     int    // on 127.0.0.1; 0 means any free one
	Fallback bool   // take any free port when Port is taken
	Secret   string // to verify signatures with; "" means [Secret]

	Got      func(Call) // told of every delivery that comes in, before the answer, without Status; nil ignores it
	Answered func(Call) // told of every answer; nil ignores it
}

// Receiver takes webhooks in. It is told what to do by [Receiver.Fail] and
// [Receiver.Mend], and over HTTP:
//
//	POST /-/fail?status=503&retry-after=2s&for=30s    fail that way, for so long
//	POST /-/fail?hang=true                            never answer
//	POST /-/mend                                      take deliveries again
//	GET  /-/calls                                     the last hundred, as JSON
//
// Make one with [ListenHooks].
type Receiver struct {
	o      ReceiverOptions
	url    string
	server *http.Server
	keys   *standardwebhooks.Webhook
	wg     sync.WaitGroup
	closed chan struct{}

	mu       sync.Mutex
	failures map[string]Failure // by path; "" is all others
	total    int
	taken    int
	last     last[Call]
}

const (
	readLimit   = 10 * time.Second
	maxDelivery = 2 << 20 // bytes
)

// ListenHooks starts a receiver.
func ListenHooks(ctx context.Context, o ReceiverOptions) (*Receiver, error) {
	if o.Secret == "" {
		o.Secret = Secret
	}
	keys, err := standardwebhooks.NewWebhook(o.Secret)
	if err != nil {
		return nil, fmt.Errorf("start webhook receiver: %w", err)
	}
	l, err := listen(ctx, "webhook receiver", o.Port, o.Fallback)
	if err != nil {
		return nil, err
	}
	r := &Receiver{o: o, url: "http://" + l.Addr().String(), keys: keys, closed: make(chan struct{}), failures: map[string]Failure{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /-/fail", r.tellFail)
	mux.HandleFunc("POST /-/mend", r.tellMend)
	mux.HandleFunc("GET /-/calls", r.tellCalls)
	mux.HandleFunc("POST /", r.deliver)
	r.server = &http.Server{Handler: mux, ReadHeaderTimeout: readLimit, ReadTimeout: readLimit}
	r.wg.Go(func() { _ = r.server.Serve(l) }) // it ends when it is closed
	return r, nil
}

// URL is where to deliver to, without a path.
func (r *Receiver) URL() string { return r.url }

// Totals are how many deliveries came in, and how many of them were taken.
func (r *Receiver) Totals() (came, taken int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total, r.taken
}

// Last returns the last hundred calls, the newest last.
func (r *Receiver) Last() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Call(nil), r.last.all...)
}

// Fail makes deliveries to a path fail. Path "" is all that are not told otherwise.
func (r *Receiver) Fail(path string, f Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures[path] = f
}

// Mend makes deliveries to a path succeed again. What hangs already goes on to.
func (r *Receiver) Mend(path string) { r.Fail(path, Failure{}) }

// Mood is how deliveries to a path are dealt with now.
func (r *Receiver) Mood(path string) Failure {
	if code, ok := strings.CutPrefix(path, "/status/"); ok {
		if status, err := strconv.Atoi(code); err == nil && status >= 200 && status <= 599 {
			return Failure{Status: status}
		}
	}
	if path == "/hang" {
		return Failure{Hang: true}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.failures[path]
	if !ok {
		f = r.failures[""]
	}
	if f.over() {
		return Failure{}
	}
	return f
}

// Close ends the receiver and its connections.
func (r *Receiver) Close() {
	close(r.closed)
	_ = r.server.Close() // nobody is waiting for an answer
	r.wg.Wait()
}

func (r *Receiver) deliver(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxDelivery))
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	call := Call{
		At: time.Now(), Path: req.URL.Path, ID: req.Header.Get(standardwebhooks.HeaderWebhookID),
		Verified: r.keys.Verify(body, req.Header) == nil,
	}
	if r.o.Got != nil {
		r.o.Got(call)
	}
	f := r.Mood(req.URL.Path)
	if f.Hang {
		select {
		case <-req.Context().Done():
		case <-r.closed:
		}
		r.note(call)
		return
	}
	if call.Status = f.Status; call.Status == 0 {
		call.Status = http.StatusOK
		if !call.Verified {
			call.Status = http.StatusUnauthorized
		}
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
	}
	r.note(call) // before the caller knows, so that what it counts is never ahead
	w.WriteHeader(call.Status)
	_, _ = fmt.Fprintln(w, http.StatusText(call.Status))
}

func (r *Receiver) note(call Call) {
	r.mu.Lock()
	r.total++
	if call.Status/100 == 2 {
		r.taken++
	}
	r.last.add(call)
	r.mu.Unlock()
	if r.o.Answered != nil {
		r.o.Answered(call)
	}
}

func (r *Receiver) tellFail(w http.ResponseWriter, req *http.Request) {
	f, err := failure(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path := req.FormValue("path")
	r.Fail(path, f)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprintln(w, f) //nolint:gosec // numbers, as plain text
}

func failure(req *http.Request) (f Failure, err error) {
	var errs []error
	if v := req.FormValue("status"); v != "" {
		if f.Status, err = strconv.Atoi(v); err != nil || f.Status < 200 || f.Status > 599 {
			errs = append(errs, fmt.Errorf("status %q: want 200 to 599", v))
		}
	}
	if v := req.FormValue("hang"); v != "" {
		if f.Hang, err = strconv.ParseBool(v); err != nil {
			errs = append(errs, fmt.Errorf("hang %q: want true or false", v))
		}
	}
	for name, set := range map[string]func(time.Duration){
		"retry-after": func(d time.Duration) { f.RetryAfter = d },
		"for":         func(d time.Duration) { f.Until = time.Now().Add(d) },
	} {
		if v := req.FormValue(name); v != "" {
			d, err := time.ParseDuration(v)
			if err != nil || d < 0 {
				errs = append(errs, fmt.Errorf("%s %q: want a duration such as 30s", name, v))
			}
			set(d)
		}
	}
	if f.Status == 0 && !f.Hang {
		errs = append(errs, errors.New("want status=CODE or hang=true"))
	}
	return f, errors.Join(errs...)
}

func (r *Receiver) tellMend(w http.ResponseWriter, req *http.Request) {
	r.Mend(req.FormValue("path"))
	_, _ = fmt.Fprintln(w, Failure{})
}

func (r *Receiver) tellCalls(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(r.Last()) // the reader may have gone
}
