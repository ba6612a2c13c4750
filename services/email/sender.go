package email

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/droverhq/drover/shared/retry"
)

// ErrClosed is returned by [Sender.Send] after [Sender.Close].
var ErrClosed = errors.New("sender is closed")

// errSilent is why a connection was given up.
var errSilent = errors.New("server does not answer")

func (s *settings) silent() error { return fmt.Errorf("%w within %v", errSilent, s.Timeout) }

// Sender sends mail through one SMTP server. Connections are kept for the next
// mail and closed when unused. Make one with [New].
type Sender struct {
	settings settings
	pool     *pool
}

// New returns a Sender, or an error that names every mistake in c. It does not
// connect: a server that is away is a matter of the tasks that need it.
func New(c Config) (*Sender, error) {
	s, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("configure email: %w", err)
	}
	return &Sender{settings: s, pool: &pool{limit: s.MaxIdle, idle: s.Idle}}, nil
}

// Send sends one mail. It is the handler of email.send.
//
// What can never be sent is permanent: malformed arguments, and a 5xx reply to
// the sender, a recipient or the message. Everything else is a plain error: 4xx
// replies, network errors, timeouts, and a server that refuses the connection,
// the encryption or the login, which no task can mend and an operator can.
func (s *Sender) Send(ctx context.Context, args Send) error {
	m, err := s.settings.compose(ctx, args)
	if err != nil {
		return retry.Permanent(fmt.Errorf("compose mail: %w", err))
	}
	if err := s.deliver(ctx, m); err != nil {
		return fmt.Errorf("send mail through %s: %w", s.settings.Addr, err)
	}
	return nil
}

// deliver tries a kept connection first. When that one turns out to be dead
// before the server could have taken anything, a fresh one gets the mail.
func (s *Sender) deliver(ctx context.Context, m *message) error {
	connecting, cancel := context.WithTimeoutCause(ctx, s.settings.Timeout, s.settings.silent())
	defer cancel()
	c, err := s.pool.get()
	if err != nil {
		return err
	}
	if c != nil {
		stale, err := s.use(ctx, c, m, s.settings.Timeout/4)
		if !stale || ctx.Err() != nil {
			return err
		}
	}
	c, err = s.settings.connect(connecting)
	if err != nil {
		return err
	}
	_, err = s.use(ctx, c, m, s.settings.Timeout)
	return err
}

// use sends m over c, and keeps c or closes it. first bounds the first reply.
// stale reports that c was of no use and the server cannot have taken the mail.
func (s *Sender) use(ctx context.Context, c *conn, m *message, first time.Duration) (stale bool, err error) {
	stop := context.AfterFunc(ctx, c.abort)
	begun, err := c.transact(m, first)
	alive := err == nil
	if r, ok := errors.AsType[*refusal](err); ok && !r.closing() {
		alive = c.reset() == nil
	}
	if !stop() {
		alive = false
		if err != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
	}
	if alive {
		s.pool.put(c)
		return false, err
	}
	c.abort()
	r, refused := errors.AsType[*refusal](err)
	return !begun && (!refused || r.closing()), err
}

// Close says goodbye on the kept connections, at most 1 s each and all at once,
// and waits for that. Connections in use are closed as their mails end.
func (s *Sender) Close() error {
	s.pool.close()
	return nil
}
