package main

import "testing"

// What strangers wrote cannot drive the terminal.
func TestPrintable(t *testing.T) {
	t.Parallel()
	text := "a\x1b[31mb\r\n\tc\u202ed\x00e\xff"
	if got, want := printable(text), "a·[31mb\n\tc·d·e\ufffd"; got != want {
		t.Errorf("printable(%q) = %q, want %q", text, got, want)
	}
}

// A table has room for what was said, not for where.
func TestHeadline(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"panic: boom\ngoroutine 16 [running]:\nruntime/debug.Stack()": "panic: boom",
		"\n 550\tno\x1b[31m such mailbox\r\nsaid smtp.example.org":    "550 no·[31m such mailbox",
		"": "",
	} {
		if got := headline(text); got != want {
			t.Errorf("headline(%q) = %q, want %q", text, got, want)
		}
	}
}
