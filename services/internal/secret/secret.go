// Package secret has a text that does not print, for passwords and keys in the
// configuration of a service.
package secret

import "strconv"

// Text is a text that does not print. To use it, convert it to a string.
type Text string

// String returns a placeholder; "" for none.
func (t Text) String() string {
	if t == "" {
		return ""
	}
	return "[secret]"
}

// GoString returns a placeholder.
func (t Text) GoString() string { return strconv.Quote(t.String()) }

// MarshalText returns a placeholder. The error is nil.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }
