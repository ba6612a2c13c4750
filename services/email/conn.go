package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/droverhq/drover/services/internal/relay"
	"github.com/droverhq/drover/shared/retry"
)

// conn is a connection that is logged in. It is used by one mail at a time.
type conn struct {
	raw    net.Conn // below TLS: closing it frees whoever waits on the client
	client *smtp.Client
	limit  time.Duration // for each reply
	data   time.Duration // for the message and the reply to it
	timer  *time.Timer   // ends its time in the pool
}

// connect dials, encrypts and logs in, all before ctx is done.
func (s *settings) connect(ctx context.Context) (*conn, error) {
	c := &conn{limit: s.Timeout, data: s.DataTimeout}
	stop := func() bool { return true }
	dial := func(dialing context.Context, network, _ string) (net.Conn, error) {
		var err error
		if c.raw, err = new(net.Dialer).DialContext(dialing, network, s.Addr); err != nil {
			return nil, err
		}
		stop = context.AfterFunc(ctx, c.abort) // the client looks at its context while it dials, and no longer
		if s.TLS != relay.ImplicitTLS {
			return c.raw, nil
		}
		t := tls.Client(c.raw, s.Trust)
		return t, t.HandshakeContext(dialing)
	}
	options := append(slices.Clone(s.Options),
		gomail.WithTimeout(2*s.Timeout), // the context ends sooner, and says why
		gomail.WithDialContextFunc(dial))
	client, err := gomail.NewClient(s.Host, options...)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c.client, err = client.DialToSMTPClientWithContext(ctx)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if c.raw != nil {
			c.abort()
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// transact hands m over. begun reports whether the server was given any of the
// message: as long as it was not, it cannot have taken it.
func (c *conn) transact(m *message, first time.Duration) (begun bool, err error) {
	if ok, _ := c.client.Extension("SMTPUTF8"); m.utf8 && !ok {
		return false, retry.Permanent(&refusal{text: "the server takes ASCII addresses only"})
	}
	c.client.SkipSMTPUTF8(!m.utf8) // asked for without need, it keeps mail from older servers further on
	c.wait(first)
	if err := c.client.Mail("<" + m.from + ">"); err != nil {
		return false, fmt.Errorf("sender %s: %w", m.from, verdict(err))
	}
	if err := c.recipients(m.rcpts); err != nil {
		return false, err
	}
	c.wait(c.limit)
	w, err := c.client.Data()
	if err != nil {
		return false, fmt.Errorf("begin message: %w", verdict(err))
	}
	c.wait(c.data)
	if _, err := w.Write(m.data); err != nil {
		return true, fmt.Errorf("transfer message: %w", verdict(err))
	}
	if err := w.Close(); err != nil {
		return true, fmt.Errorf("end message: %w", verdict(err))
	}
	return true, nil
}

// recipients names every recipient, so that the error can name all that are
// refused. One that is refused for good decides for the mail.
func (c *conn) recipients(rcpts []string) error {
	const shown = 5
	var refused []string
	var worst error
	for _, rcpt := range rcpts {
		c.wait(c.limit)
		err := c.client.Rcpt("<" + rcpt + ">")
		if err == nil {
			continue
		}
		err = verdict(err)
		if r, ok := errors.AsType[*refusal](err); !ok || r.closing() {
			return fmt.Errorf("recipient %s: %w", rcpt, err)
		}
		if worst == nil || retry.IsPermanent(err) {
			worst = err
		}
		if len(refused) < shown {
			refused = append(refused, rcpt+": "+err.Error())
		} else if len(refused) == shown {
			refused = append(refused, "and more")
		}
	}
	if worst == nil {
		return nil
	}
	r := &refusal{text: "recipients refused, sent to nobody: " + strings.Join(refused, "; ")}
	if retry.IsPermanent(worst) {
		return retry.Permanent(r)
	}
	return r
}

func (c *conn) reset() error {
	c.wait(c.limit)
	return c.client.Reset()
}

// wait bounds what follows. An error means that the connection is closed, which
// what follows finds out as well.
func (c *conn) wait(d time.Duration) { _ = c.raw.SetDeadline(time.Now().Add(d)) }

// abort closes the connection at once. It may be called at any time, any number
// of times, from any goroutine.
func (c *conn) abort() { _ = c.raw.Close() }

// quit closes the connection politely, in at most 1 s.
func (c *conn) quit() {
	c.wait(time.Second)
	_ = c.client.Quit() // whether the server heard it makes no difference
	c.abort()
}

// refusal is an answer of the server, in contrast to a connection that broke.
type refusal struct {
	code int // of the reply; 0 when there is none, or several
	text string
}

func (r *refusal) Error() string {
	if r.code == 0 {
		return r.text
	}
	return strconv.Itoa(r.code) + " " + r.text
}

// closing reports whether the server is about to close the connection.
func (r *refusal) closing() bool { return r.code == 421 }

// verdict turns a reply of the server to one mail into a verdict on its task. A
// 5xx is final, except for those that complain of this client: 503 bad sequence
// of commands, 530, 534, 535 and 538 login or encryption needed.
func verdict(err error) error {
	e, ok := errors.AsType[*textproto.Error](err)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %w", errSilent, err)
	case !ok:
		return fmt.Errorf("connection lost: %w", err)
	}
	r := &refusal{e.Code, tidy(e.Msg)}
	switch {
	case e.Code < 500, e.Code == 503, e.Code == 530, e.Code == 534, e.Code == 535, e.Code == 538:
		return r
	}
	return retry.Permanent(r)
}

// tidy makes a reply one short line.
func tidy(msg string) string {
	const most = 200 // bytes
	msg = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(msg, "?"), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if len(msg) > most {
		msg = strings.ToValidUTF8(msg[:most], "") + "…"
	}
	return msg
}
