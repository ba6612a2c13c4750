// Command probe asks one URL, for the health check of an image that holds no
// shell: `probe http://127.0.0.1:8081/readyz`. It writes the answer to standard
// output and exits with 0 when that is a 200, and with 1 when it is anything else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	limit   = 3 * time.Second // of the whole question: a health check may take 5 s
	maxBody = 16 << 20        // bytes: /metrics may be long
)

func main() {
	if err := probe(context.Background(), os.Args[1:], os.Stdout); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "probe: %v\n", err)
		os.Exit(1)
	}
}

func probe(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return errors.New("want one argument, a URL")
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if _, err := io.Copy(stdout, io.LimitReader(resp.Body, maxBody)); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
