package deadletter

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

// Fingerprint names the kind of death that l died: letters with one fingerprint
// have the same kind, class and reason, and a last error of the same wording. What
// differs from task to task in a text makes no other kind of death: numbers, ids,
// times, addresses, whatever is quoted, and what an isolated task printed. A reply
// code that is named as one ("answered 503", "status 404") does make one.
//
// It is 12 characters of 0-9 and a-f, the same in every process and version that
// words its errors alike. It is meant for grouping and is no secret: an error that
// holds words of the task's own makes as many groups as there are such words.
func Fingerprint(l *Letter) string {
	text := ""
	if n := len(l.Errors); n > 0 {
		text = wording(l.Errors[n-1].Error)
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{l.Subject.Kind(), string(l.Subject.Class), string(l.Reason), text}, "\x00")))
	return hex.EncodeToString(sum[:6])
}

const maxWording = 256 // bytes: what follows is most often a quotation that was cut somewhere

// wording is what stays of an error's text when all is taken out that differs
// from task to task.
func wording(text string) string {
	for _, own := range []string{"\ngoroutine ", "; the last of its output: "} { // the stack of a panic; what an isolated task printed
		text, _, _ = strings.Cut(text, own)
	}
	text = varying.ReplaceAllStringFunc(text, generic)
	text = several.ReplaceAllString(text, "#")
	text = strings.Join(strings.Fields(text), " ")
	return text[:min(len(text), maxWording)]
}

// varying matches what differs from task to task, and the replies that look like
// it. At one place the first alternative that matches counts.
var varying = regexp.MustCompile(strings.Join([]string{
	reply,
	`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>` + "`" + `]+`,
	`"(?:[^"\\]|\\.)*"?`, "`[^`]*`?", `(?:^|[\s(\[=:,])'[^']*'`,
	`[^\s<>@":,;()]+@[A-Za-z0-9.-]*[A-Za-z0-9]`,
	`[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?`,
	`[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}`,
	`\[[0-9a-fA-F:.]+:[0-9a-fA-F:.]*(?:%[a-z0-9]+)?\](?::[0-9]+)?`, `(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{1,4}`,
	`[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(?::[0-9]+)?`, `[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*:[0-9]+\b`,
	`(?i:\blookup )[^\s:]+`,
	`[0-9][A-Za-z0-9µ]*(?:[.,][0-9][A-Za-z0-9µ]*)*`, `[A-Za-z]+[0-9][A-Za-z0-9]*`, `\b[A-Z]{16,}\b`,
}, "|"))

// Parts of varying.
const reply = `(?i:\b(?:status|code|answered|http/[0-9.]+)[ :=]+[1-5][0-9]{2}\b)`

var (
	isReply = regexp.MustCompile(`^` + reply + `$`)
	isHost  = regexp.MustCompile(`^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*:[0-9]+$`)
	isIP    = regexp.MustCompile(`^(\[.*\](:[0-9]+)?|[0-9a-fA-F:]*:[0-9a-fA-F]*:[0-9a-fA-F]+|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(:[0-9]+)?)$`)
	named   = regexp.MustCompile(`^[A-Za-z]+([0-9]+)$`)
	digits  = regexp.MustCompile(`[0-9]+`)
	several = regexp.MustCompile(`#(?:[\s,]+#)+`)
)

// generic is what stands for one match of varying.
func generic(s string) string {
	switch first := s[0]; {
	case isReply.MatchString(s):
		return s
	case strings.Contains(s, "://"):
		return "<url>" + s[len(strings.TrimRight(s, ".,:;)]")):]
	case first == '"' || first == '`':
		return "<text>"
	case strings.HasSuffix(s, "'"):
		return strings.Trim(s[:1], "'") + "<text>"
	case strings.Contains(s, "@"), isIP.MatchString(s):
		return "<address>"
	case len(s) > 7 && strings.EqualFold(s[:7], "lookup "):
		return s[:7] + "<address>"
	case isHost.MatchString(s):
		host, _, _ := strings.Cut(s, ":")
		if strings.Contains(host, ".") && !strings.HasSuffix(host, ".go") {
			return "<address>"
		}
		return digits.ReplaceAllString(host, "#") + ":#"
	}
	if m := named.FindStringSubmatchIndex(s); m != nil && strings.Trim(s[:m[2]], "abcdefABCDEF") != "" {
		return s[:m[2]] + "#" // user17; a word of a to f is the begin of an id
	}
	return "#"
}
