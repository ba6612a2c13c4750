package doctor

import (
	"strings"

	"github.com/droverhq/drover/tools/supervise/screen"
)

// some is n with its noun.
func some(n uint64, one, many string) string { return screen.Some(n, one, many) }

// verb is the form that goes with n.
func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// plain is text from a stranger on one line, cut.
func plain(text string) string { return screen.Cut(screen.Plain(text), textWidth) }

const textWidth = 160

// screenSafe is word without what a shell in single quotes or a terminal would act
// upon.
func screenSafe(word string) string {
	return strings.ReplaceAll(screen.Plain(word), "'", "")
}
