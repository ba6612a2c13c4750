// Package email sends mail: the kind email.send, worked through one SMTP server
// that takes the mail in for delivery.
//
// # Semantics
//
// One task is one mail and one SMTP transaction: every recipient gets it, or
// nobody does. A recipient that the server refuses for good (5xx) makes the
// whole task permanently failed, with each refused address in the error; one
// that it puts off (4xx) makes the whole task wait for its next attempt. Where
// recipients must not share a fate, publish a task for each.
//
// A task may run more than once: when the connection breaks after the mail was
// handed over and before the server said yes, nobody can know. So the Message-ID
// is derived from the task's id and generation, and receivers can recognise the
// second copy.
//
// # Concurrency
//
// A [Sender] is safe for concurrent use.
package email

import (
	"fmt"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/droverhq/drover/shared/task"
)

// Send asks for one mail to be sent. It needs at least one recipient, and a text
// or an HTML body; with both, the receiver's program shows the one it prefers.
// An address is "a@b.c" or "Name <a@b.c>".
type Send struct {
	To      Addresses `msgpack:"to"`
	Cc      Addresses `msgpack:"cc,omitempty"`
	Bcc     Addresses `msgpack:"bcc,omitempty"`      // not shown to any recipient
	From    string    `msgpack:"from,omitempty"`     // in the domain of [Config.From]; empty means Config.From
	ReplyTo string    `msgpack:"reply_to,omitempty"` // empty means the sender
	Subject string    `msgpack:"subject"`            // one line, at most 900 bytes
	Text    string    `msgpack:"text,omitempty"`
	HTML    string    `msgpack:"html,omitempty"`
}

// Kind is email.send.
func (Send) Kind() string { return "email.send" }

// Class is [task.Default]: a few seconds are fine. Publish a mail that a person
// waits for, such as a password reset, with class urgent.
func (Send) Class() task.Class { return task.Default }

// Addresses are mail addresses. On the wire they are a list of strings, or one
// string for one address.
type Addresses []string

// DecodeMsgpack reads a list of strings, one string, or nil.
func (a *Addresses) DecodeMsgpack(d *msgpack.Decoder) error {
	v, err := d.DecodeInterface()
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	switch v := v.(type) {
	case nil:
		*a = nil
	case string:
		*a = Addresses{v}
	case []any:
		out := make(Addresses, 0, len(v))
		for i, e := range v {
			s, ok := e.(string)
			if !ok {
				return fmt.Errorf("addresses: item %d is a %T, want a string", i, e)
			}
			out = append(out, s)
		}
		*a = out
	default:
		return fmt.Errorf("addresses: got a %T, want a string or a list of strings", v)
	}
	return nil
}
