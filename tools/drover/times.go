package main

import (
	"time"

	"github.com/droverhq/drover/tools/supervise/screen"
)

const millis = time.DateTime + ".000" // for what follows each other closely

// instant is t for JSON, absent when there is none.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// second is a time as people read it here.
func second(t time.Time) string { return t.Local().Format(time.DateTime) }

// moment is a time to come as people read it here: when, and in how long.
func moment(t time.Time) string {
	text := second(t)
	if time.Until(t) <= 12*time.Hour {
		text = t.Local().Format(time.TimeOnly)
	}
	return text + " (" + screen.Span(time.Until(t).Round(time.Second)) + ")"
}
