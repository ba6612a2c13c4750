package main

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/tools/supervise/screen"
)

// arguments are the keys of a task's arguments in the --json of what shows a task.
type arguments struct {
	Arguments *deadletter.Document `json:"arguments,omitempty"`  // decoded, in the form of dead edit
	Body      []byte               `json:"body,omitempty"`       // in base64, when it cannot be decoded
	BodyError string               `json:"body_error,omitempty"` // why not
}

// argumentsOf decodes content, the body as it was published. err is why there is
// none: the body as it is stored then stands for it.
func argumentsOf(content []byte, err error, stored []byte) arguments {
	if err != nil {
		return arguments{Body: stored, BodyError: err.Error()}
	}
	d, err := deadletter.NewDocument(content)
	if err != nil {
		return arguments{Body: content, BodyError: err.Error()}
	}
	return arguments{Arguments: d}
}

// tellArguments writes them for people, below a heading.
func (x *arguments) tellArguments(a *App) {
	if x.Arguments == nil {
		a.printf("%s%s\n%s", indent, screen.Plain(x.BodyError), dump(x.Body))
		return
	}
	a.printf("%s%s\n", indent, strings.ReplaceAll(strings.TrimSpace(printable(string(x.Arguments.JSON()))), "\n", "\n"+indent))
}

const dumpBytes = 256

// dump shows how an undecodable body begins.
func dump(body []byte) string {
	if len(body) == 0 {
		return indent + "the body is empty\n"
	}
	head := body[:min(len(body), dumpBytes)]
	text := fmt.Sprintf("%d bytes", len(body))
	if len(head) < len(body) {
		text += fmt.Sprintf(", of which the first %d", len(head))
	}
	return indent + text + ":\n" + indent + strings.ReplaceAll(strings.TrimSuffix(hex.Dump(head), "\n"), "\n", "\n"+indent) + "\n"
}
