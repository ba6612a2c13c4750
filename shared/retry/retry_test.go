package retry_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/shared/retry"
)

func TestDelayStaysInItsWindow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		policy retry.Policy
		failed int
		most   time.Duration
	}{
		{"zero value, first", retry.Policy{}, 1, time.Second},
		{"zero value, third", retry.Policy{}, 3, 4 * time.Second},
		{"zero value, capped", retry.Policy{}, 50, 10 * time.Minute},
		{"no overflow", retry.Policy{Base: time.Hour, Cap: 1 << 62}, 1000, 1 << 62},
		{"base above the default cap", retry.Policy{Base: time.Hour}, 5, time.Hour},
		{"failed is never below one", retry.Policy{}, 0, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var longest time.Duration
			for range 2000 {
				d := tt.policy.Delay(tt.failed)
				if d <= 0 || d > tt.most {
					t.Fatalf("Delay(%d) = %v, want in (0, %v]", tt.failed, d, tt.most)
				}
				longest = max(longest, d)
			}
			if longest < tt.most*9/10 { // 0.9^2000 of a chance
				t.Errorf("the longest of 2000 delays is %v, want close to %v: the jitter is not full", longest, tt.most)
			}
		})
	}
}

func TestSpent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		policy retry.Policy
		failed int
		want   bool
	}{
		{retry.Policy{}, 4, false},
		{retry.Policy{}, 5, true},
		{retry.Policy{Attempts: 1}, 1, true},
		{retry.Policy{Attempts: 2}, 1, false},
	} {
		if got := tt.policy.Spent(tt.failed); got != tt.want {
			t.Errorf("%+v.Spent(%d) = %v, want %v", tt.policy, tt.failed, got, tt.want)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		policy retry.Policy
		says   string // "" for a valid policy
	}{
		{retry.Policy{}, ""},
		{retry.Policy{Base: time.Hour}, ""},
		{retry.Policy{Base: -1}, "base -1ns is negative"},
		{retry.Policy{Cap: -1}, "cap -1ns is negative"},
		{retry.Policy{Attempts: -1}, "-1 attempts"},
		{retry.Policy{Base: time.Minute, Cap: time.Second}, "cap 1s is below base 1m0s"},
	} {
		err := tt.policy.Validate()
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v.Validate() = %v, want %q", tt.policy, err, tt.says)
		}
	}
}

// Verdicts are found through any wrapping, keep their cause, and bound their delay.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	cause := errors.New("no such account")
	wrapped := fmt.Errorf("send: %w", retry.Permanent(cause))
	if !retry.IsPermanent(wrapped) || !errors.Is(wrapped, cause) {
		t.Errorf("%v is not permanent, or has lost its cause", wrapped)
	}
	if retry.Permanent(nil) != nil || retry.IsPermanent(cause) || retry.IsPermanent(nil) {
		t.Error("what is not permanent passes for it")
	}
	for _, tt := range []struct{ ask, want time.Duration }{
		{time.Minute, time.Minute}, {-time.Second, 0}, {1000 * time.Hour, retry.MaxAfter},
	} {
		d, ok := retry.AsAfter(fmt.Errorf("send: %w", retry.After(tt.ask, cause)))
		if !ok || d != tt.want {
			t.Errorf("AsAfter(After(%v)) = %v, %v, want %v", tt.ask, d, ok, tt.want)
		}
	}
	if got := retry.After(time.Second, nil).Error(); got != "again after 1s" {
		t.Errorf("After without a cause says %q", got)
	}
	if _, ok := retry.AsAfter(cause); ok {
		t.Error("a plain error passes for After")
	}
}

func ExamplePermanent() {
	send := func(to string) error {
		if !strings.Contains(to, "@") {
			return retry.Permanent(fmt.Errorf("send to %q: not an address", to))
		}
		return nil
	}
	err := send("nobody")
	fmt.Println(err, retry.IsPermanent(err))
	// Output: send to "nobody": not an address true
}

func ExampleAfter() {
	err := retry.After(30*time.Second, errors.New("429 Too Many Requests"))
	d, _ := retry.AsAfter(err)
	fmt.Println(d, err)
	// Output: 30s again after 30s: 429 Too Many Requests
}
