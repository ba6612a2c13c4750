package email

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/mail"
	"strconv"
	"strings"
	"unicode/utf8"

	gomail "github.com/wneessen/go-mail"

	"github.com/droverhq/drover/shared/task"
)

const (
	maxRecipients = 100 // of one mail; the least that RFC 5321 lets a server accept
	maxSubject    = 900 // bytes; fits a line of 998 even where it cannot be folded
)

// message is a mail ready to be sent.
type message struct {
	from  string   // bare address
	rcpts []string // bare addresses, each once
	utf8  bool     // an address is not ASCII: the server must know SMTPUTF8
	data  []byte   // header and body
}

// compose writes the mail that args ask for. Every error is a mistake in args.
func (s *settings) compose(ctx context.Context, args Send) (*message, error) {
	if args.Text == "" && args.HTML == "" {
		return nil, errors.New("there is no text and no html")
	}
	if !utf8.ValidString(args.Text) || !utf8.ValidString(args.HTML) {
		return nil, errors.New("text or html is not UTF-8")
	}
	if err := oneLine(args.Subject); err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	if len(args.Subject) > maxSubject {
		return nil, fmt.Errorf("subject has %d bytes, %d are allowed", len(args.Subject), maxSubject)
	}

	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	m := &message{}
	if err := s.address(msg, m, args); err != nil {
		return nil, err
	}
	msg.Subject(strings.Join(strings.Fields(args.Subject), " ")) // runs of spaces fold into lines of nothing else
	msg.SetDate()
	msg.SetMessageIDWithValue(messageID(ctx, s.from))
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: keeps "out of office" replies away
	if args.Text != "" {
		msg.SetBodyString(gomail.TypeTextPlain, args.Text)
	}
	if args.HTML != "" {
		msg.AddAlternativeString(gomail.TypeTextHTML, args.HTML)
	}
	var b bytes.Buffer
	if _, err := msg.WriteTo(&b); err != nil {
		return nil, err
	}
	m.data = b.Bytes()
	return m, nil
}

// address sets the envelope of m and the address headers of msg.
func (s *settings) address(msg *gomail.Msg, m *message, args Send) error {
	from := s.from
	if args.From != "" {
		var err error
		if from, err = parseAddress(args.From); err != nil {
			return fmt.Errorf("from: %w", err)
		}
		if !strings.EqualFold(domainOf(from), domainOf(s.from)) {
			return fmt.Errorf("from: %s is not in the domain %s that this service sends for", from.Address, domainOf(s.from))
		}
	}
	msg.FromMailAddress(from)
	m.from = from.Address
	m.utf8 = !ascii(from.Address)

	if n := len(args.To) + len(args.Cc) + len(args.Bcc); n == 0 || n > maxRecipients {
		return fmt.Errorf("%d recipients, want 1 to %d", n, maxRecipients)
	}
	seen := map[string]bool{}
	for _, field := range []struct {
		name  string
		list  Addresses
		write func(...*mail.Address)
	}{
		{"to", args.To, msg.ToMailAddress},
		{"cc", args.Cc, msg.CcMailAddress},
		{"bcc", args.Bcc, nil},
	} {
		var list []*mail.Address
		for _, raw := range field.list {
			a, err := parseAddress(raw)
			if err != nil {
				return fmt.Errorf("%s: %w", field.name, err)
			}
			list = append(list, a)
			if !seen[a.Address] {
				seen[a.Address] = true
				m.rcpts = append(m.rcpts, a.Address)
				m.utf8 = m.utf8 || !ascii(a.Address)
			}
		}
		if field.write != nil && len(list) > 0 {
			field.write(list...)
		}
	}

	if args.ReplyTo != "" {
		a, err := parseAddress(args.ReplyTo)
		if err != nil {
			return fmt.Errorf("reply_to: %w", err)
		}
		msg.ReplyToMailAddress(a)
	}
	return nil
}

// messageID is the same for every attempt of one generation of one task. Two
// tenants may use the same id, so theirs differ.
func messageID(ctx context.Context, from *mail.Address) string {
	info, ok := task.FromContext(ctx)
	if !ok {
		return rand.Text() + "@" + domainOf(from)
	}
	id := task.Token(info.ID) + "." + strconv.Itoa(info.Generation)
	if info.Tenant != "" {
		id += "." + info.Tenant
	}
	return id + "@" + domainOf(from)
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}
