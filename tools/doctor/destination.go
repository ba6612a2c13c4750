package doctor

import (
	"net"
	"net/url"
	"regexp"
	"strings"
)

// A failure's text is all that there is to tell whom it is about: handlers return
// any error. Those of Go's net and net/http name the address, and those of the
// fleet's services the host.
var (
	inURL   = regexp.MustCompile(`https?://[^\s"'<>\\]+`)
	lookup  = regexp.MustCompile(`\blookup ([A-Za-z0-9._-]+)`)
	dialled = regexp.MustCompile(`\b(?:dial|read|write) (?:tcp|udp)[46]? (?:\S+->)?(\S+:\d+)`)
	named   = regexp.MustCompile(`(?i)\b(?:through|to|from|by|via|host|server|at|said|of) ([a-z0-9.\[\]:-]+)`)
)

// hostOf returns the destination that the text of a failure names, as host or
// host:port in lower case, and "" when it names none.
func hostOf(text string) string {
	if m := inURL.FindString(text); m != "" {
		if u, err := url.Parse(strings.TrimRight(m, ":,;.)]}")); err == nil && u.Host != "" {
			return strings.ToLower(u.Host)
		}
	}
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		if h := address(m[1]); h != "" {
			return h
		}
	}
	if m := lookup.FindStringSubmatch(text); m != nil {
		return strings.ToLower(m[1])
	}
	if m := dialled.FindStringSubmatch(text); m != nil {
		return strings.ToLower(m[1])
	}
	return ""
}

// address is word when it is host:port, a name with a domain, or an IP address.
func address(word string) string {
	word = strings.ToLower(strings.TrimRight(word, ":.,;"))
	host, port, err := net.SplitHostPort(word)
	if err != nil {
		host, port = word, ""
	}
	if net.ParseIP(host) != nil || domain.MatchString(host) || port != "" && digits.MatchString(port) && label.MatchString(host) {
		return word
	}
	return ""
}

var (
	domain = regexp.MustCompile(`^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}$`)
	label  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	digits = regexp.MustCompile(`^\d+$`)
)

// causes are what the text of a failure says that a destination does. The first
// that matches counts.
var causes = []struct {
	pattern *regexp.Regexp
	text    string // $1 is the pattern's group
	link    bool   // of the connection, and so perhaps of our own network
}{
	{regexp.MustCompile(`(?i)connection refused`), "refuses connections", true},
	{regexp.MustCompile(`(?i)no such host|server misbehaving`), "has a name that does not resolve", true},
	{regexp.MustCompile(`(?i)no route to host|network is unreachable|host is down`), "cannot be reached", true},
	{regexp.MustCompile(`(?i)x509|certificate|\btls: `), "fails in TLS", false},
	{regexp.MustCompile(`(?i)answered (\d{3})\b`), "answers $1", false},
	{regexp.MustCompile(`(?i)\b(?:status|http|code|HTTP/[0-9.]+)[ :=]+([1-5]\d{2})\b`), "answers $1", false},
	{regexp.MustCompile(`\b([45]\d{2})[ -][245]\.\d{1,3}\.\d{1,3}`), "replies $1", false},
	{regexp.MustCompile(`(?:^|: )([45]\d{2}) `), "replies $1", false},
	{regexp.MustCompile(`(?i)too many requests|rate limit`), "asks to be called less often", false},
	{regexp.MustCompile(`(?i)i/o timeout|deadline exceeded|timed? ?out|not done within|does not answer|time limit`), "does not answer in time", true},
	{regexp.MustCompile(`(?i)connection reset|broken pipe|\bEOF\b|connection lost|connection closed`), "closes connections", true},
}

// causeOf returns what the text of a failure says that a destination does.
func causeOf(text string) (cause string, link bool) {
	for _, c := range causes {
		if m := c.pattern.FindStringSubmatch(text); m != nil {
			out := c.text
			if len(m) > 1 {
				out = strings.ReplaceAll(out, "$1", m[1])
			}
			return out, c.link
		}
	}
	return "fails", false
}
