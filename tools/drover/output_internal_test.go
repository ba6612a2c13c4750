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
