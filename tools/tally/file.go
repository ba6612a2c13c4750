package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// appendCounts adds a step to the file that readCounts sums, making it if need be.
func appendCounts(path string, c Counts) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep counts: %w", err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, c); err != nil {
		return fmt.Errorf("keep counts: %w", err)
	}
	return nil
}

// readCounts sums the steps in the file at path; a file that is not there yet
// has none.
func readCounts(path string) (Counts, error) {
	var total Counts
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return total, fmt.Errorf("read counts: %w", err)
	}
	lines := bufio.NewScanner(strings.NewReader(string(text)))
	for lines.Scan() {
		var c Counts
		if _, err := fmt.Sscanf(lines.Text(), "%d passed, %d failed", &c.Passed, &c.Failed); err != nil {
			return total, fmt.Errorf("read counts: %q: %w", lines.Text(), err)
		}
		total.Passed += c.Passed
		total.Failed += c.Failed
	}
	return total, nil
}
