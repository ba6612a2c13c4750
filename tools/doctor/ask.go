package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/broker"
)

var (
	errSlow   = errors.New("the examination took longer than it may")
	errSilent = errors.New("no answer")
	errDenied = errors.New("not allowed for these credentials")

	errLeaderless = errors.New("answered by a node that knows of no leader")
)

// askLimit is for one answer of the broker. An election takes 6 to 8 s: a stream
// that has no leader for the moment is reported as what it is.
const askLimit = 2 * time.Second

// asker puts questions to the broker. A question that the credentials do not allow
// gets no answer, only an error on the connection, which ends the wait for it.
type asker struct {
	nc *nats.Conn

	mu     sync.Mutex
	denied map[string]bool // subjects
	waits  map[*wait]bool
}

type wait struct {
	subjects []string // that it publishes to
	end      context.CancelCauseFunc
}

func newAsker() *asker { return &asker{denied: map[string]bool{}, waits: map[*wait]bool{}} }

// complain hears the errors of the connection.
func (a *asker) complain(_ *nats.Conn, _ *nats.Subscription, err error) {
	if err == nil || !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	_, rest, _ := strings.Cut(err.Error(), `"`)
	subject, _, _ := strings.Cut(rest, `"`)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.denied[subject] = true
	for w := range a.waits {
		if w.about(subject) {
			w.end(fmt.Errorf("%w: %s", errDenied, subject))
		}
	}
}

func (w *wait) about(subject string) bool {
	if strings.HasPrefix(subject, "_INBOX") {
		return true // no answer can be heard
	}
	return slices.ContainsFunc(w.subjects, func(s string) bool {
		return s == subject || strings.HasSuffix(s, ".>") && strings.HasPrefix(subject, s[:len(s)-1])
	})
}

// deaf returns the subject of answers, when it may not be subscribed to.
func (a *asker) deaf() (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range a.denied {
		if strings.HasPrefix(s, "_INBOX") {
			return s, true
		}
	}
	return "", false
}

// limit is ctx for one question that is put to subjects.
func (a *asker) limit(ctx context.Context, d time.Duration, subjects ...string) (context.Context, func()) {
	ctx, stop := context.WithTimeoutCause(ctx, d, errSilent)
	ctx, end := context.WithCancelCause(ctx)
	w := &wait{subjects, end}
	a.mu.Lock()
	a.waits[w] = true
	for s := range a.denied { // it says so once of the inbox
		if w.about(s) {
			end(fmt.Errorf("%w: %s", errDenied, s))
		}
	}
	a.mu.Unlock()
	return ctx, func() {
		a.mu.Lock()
		delete(a.waits, w)
		a.mu.Unlock()
		end(nil)
		stop()
	}
}

// api asks a function of JetStream, whose answer is decoded into out.
func (a *asker) api(ctx context.Context, function string, out any) error {
	subject := jetstream.DefaultAPIPrefix + function
	ctx, done := a.limit(ctx, askLimit, subject)
	defer done()
	m, err := a.nc.RequestWithContext(ctx, subject, nil)
	if err != nil {
		return why(ctx, err)
	}
	return broker.DecodeAPI(m.Data, out)
}

// why is err, or what ended ctx when that is the reason.
func why(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// missing reports whether err says that a stream or consumer does not exist.
func missing(err error) bool {
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (e.ErrorCode == jetstream.JSErrCodeStreamNotFound || e.ErrorCode == jetstream.JSErrCodeConsumerNotFound)
}
