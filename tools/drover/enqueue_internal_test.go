package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/droverhq/drover/shared/client"
)

// The advice is about what is full: more room for a class does not help a full account.
func TestAdviceWhenFull(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		limit     error
		want, not string
	}{
		{"class", nil, "raise max_bytes of the class", "max_file"},
		{"account", client.ErrAccountFull, "max_file of the account", "max_bytes"},
		{"broker", client.ErrBrokerFull, "max_file_store", "max_bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := (&enqueueCmd{Class: "bulk"}).advise(nil, fmt.Errorf("publish: %w", &client.FullError{Limit: tt.limit}))
			h, ok := errors.AsType[hinted](err)
			if !ok || !strings.Contains(h.hint, tt.want) || strings.Contains(h.hint, tt.not) || codeOf(err) != exitRefused {
				t.Errorf("advise = %+v with exit code %d, want %d and a hint with %q, without %q", h, codeOf(err), exitRefused, tt.want, tt.not)
			}
		})
	}
}
