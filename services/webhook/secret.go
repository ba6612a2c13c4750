package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Bounds of a secret, in bytes, as Standard Webhooks sets them.
const (
	minSecret = 24
	maxSecret = 64
)

const (
	secretPrefix = "whsec_"
	noName       = "default" // the secret of a task that names none
)

// keys reads all secrets by name. No error shows any of a secret.
func (c *Config) keys() (map[string][]*standardwebhooks.Webhook, error) {
	type entry struct{ where, text string }
	var entries []entry
	for i, text := range strings.Split(string(c.Secrets), ",") {
		entries = append(entries, entry{fmt.Sprintf("secret %d", i+1), text})
	}
	if c.SecretsFile != "" {
		b, err := os.ReadFile(c.SecretsFile)
		if err != nil {
			return nil, fmt.Errorf("secrets: %w", err)
		}
		for i, line := range strings.Split(string(b), "\n") {
			line, _, _ = strings.Cut(line, "#")
			entries = append(entries, entry{fmt.Sprintf("%s, line %d", c.SecretsFile, i+1), line})
		}
	}
	keys := map[string][]*standardwebhooks.Webhook{}
	var errs []error
	for _, e := range entries {
		if e.text = strings.TrimSpace(e.text); e.text == "" {
			continue
		}
		name, value, ok := strings.Cut(e.text, "=")
		if name = strings.TrimSpace(name); !ok || name == "" {
			errs = append(errs, fmt.Errorf("%s is not of the form NAME=%sBASE64", e.where, secretPrefix))
			continue
		}
		key, err := parseSecret(strings.TrimSpace(value))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.where, err))
			continue
		}
		keys[name] = append(keys[name], key)
	}
	return keys, errors.Join(errs...)
}

func parseSecret(s string) (*standardwebhooks.Webhook, error) {
	text, ok := strings.CutPrefix(s, secretPrefix)
	if !ok {
		return nil, fmt.Errorf("the secret does not begin with %s", secretPrefix)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("the secret is not base64")
	}
	if len(raw) < minSecret || len(raw) > maxSecret {
		return nil, fmt.Errorf("the secret has %d bytes, want %d to %d", len(raw), minSecret, maxSecret)
	}
	return standardwebhooks.NewWebhookRaw(raw)
}
