package email

import (
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"
)

// oneLine returns an error unless s is UTF-8 without control characters, so that
// nothing in it can end a header line or an SMTP command.
func oneLine(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("it is not UTF-8")
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Errorf("it has a control character (%q) at byte %d", s[i], i)
	}
	return nil
}

// parseAddress reads "a@b.c" or "Name <a@b.c>". It takes less than RFC 5322
// does: no quoted local parts, which have smuggled SMTP parameters past more than
// one library, and no address literals, which reach hosts that have no name.
func parseAddress(s string) (*mail.Address, error) {
	if err := oneLine(s); err != nil {
		return nil, fmt.Errorf("address %.100q: %w", s, err)
	}
	a, err := mail.ParseAddress(s)
	if err != nil {
		return nil, fmt.Errorf("address %.100q: %w", s, err)
	}
	if err := oneLine(a.Name); err != nil { // encoded words are decoded by now
		return nil, fmt.Errorf("name in address %.100q: %w", s, err)
	}
	a.Name = strings.Join(strings.Fields(a.Name), " ")
	local, domain := a.Address[:strings.LastIndexByte(a.Address, '@')], domainOf(a)
	if !dotted(local, 64, atomRune) {
		return nil, fmt.Errorf("address %.100q: the part before the @ needs quotes or is longer than 64 bytes", s)
	}
	if !dotted(domain, 253, domainRune) {
		return nil, fmt.Errorf("address %.100q: %q is not a domain name", s, domain)
	}
	return a, nil
}

func domainOf(a *mail.Address) string { return a.Address[strings.LastIndexByte(a.Address, '@')+1:] }

// dotted reports whether s is non-empty words of legal runes with dots between.
func dotted(s string, limit int, legal func(rune) bool) bool {
	if len(s) > limit {
		return false
	}
	for word := range strings.SplitSeq(s, ".") {
		if word == "" || strings.ContainsFunc(word, func(r rune) bool { return !legal(r) }) {
			return false
		}
	}
	return true
}

func atomRune(r rune) bool {
	return domainRune(r) || strings.ContainsRune("!#$%&'*+/=?^_`{|}~", r)
}

func domainRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' ||
		r >= utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r))
}
