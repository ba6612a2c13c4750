package deadletter

import (
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"time"

	"github.com/droverhq/drover/services/internal/relay"
	"github.com/droverhq/drover/services/internal/secret"
)

// Config says how often to look and whom to tell. It can be embedded in the
// command line of a kong program. The zero value is useful: every zero means its
// default, and alerts go to the log alone.
type Config struct {
	Interval time.Duration `name:"alert-interval" env:"DROVER_ALERT_INTERVAL" default:"1h" help:"How long to wait between two alerts of one kind of death."`
	// Gather is how long a new kind of death is watched before it is told, so that
	// the first alert of a flood has a count. 0 means 5 s.
	Gather time.Duration `name:"alert-gather" env:"DROVER_ALERT_GATHER" default:"5s" help:"How long to count a new kind of death before it is told."`

	Webhook Webhook `embed:"" prefix:"alert-webhook-" envprefix:"DROVER_ALERT_WEBHOOK_"`
	Mail    Mail    `embed:""`

	Sweep time.Duration `name:"sweep" env:"DROVER_SWEEP" default:"1m" help:"How often to look for strays and stuck timers."`
	// Overdue is by how much a timer is late before it is set again. 0 means 30 s.
	Overdue time.Duration `name:"timer-overdue" env:"DROVER_TIMER_OVERDUE" default:"30s" help:"How late a timer has to be before it is set again."`
	// OrphanSweep is how often bodies are looked through. 0 means 1 h.
	OrphanSweep time.Duration `name:"orphan-sweep" env:"DROVER_ORPHAN_SWEEP" default:"1h" help:"How often to look for bodies that nothing refers to."`
	// OrphanAge is how old a body has to be before it may be called an orphan:
	// longer than anybody takes between storing a body and publishing its task.
	// 0 means 24 h.
	OrphanAge time.Duration `name:"orphan-age" env:"DROVER_ORPHAN_AGE" default:"24h" help:"How old a body must be to be called an orphan."`
	// OrphanRemove is the age at which orphans are removed. 0 means never.
	OrphanRemove time.Duration `name:"orphan-remove" env:"DROVER_ORPHAN_REMOVE" default:"0" placeholder:"AGE" help:"Remove orphans that are older than this; 0 removes none."`

	// Lease is how long the leading process may be silent before another takes
	// over. 0 means 15 s.
	Lease time.Duration `name:"leader-lease" env:"DROVER_LEADER_LEASE" default:"15s" help:"How long the leading process may be silent before another takes over."`
}

// Webhook is where alerts are posted. An empty URL means nowhere.
type Webhook struct {
	URL     string        `env:"URL" placeholder:"URL" help:"Post alerts to this URL as JSON."`
	Secret  secret.Text   `env:"SECRET" placeholder:"whsec_BASE64" help:"Sign them with this secret, as Standard Webhooks does. Better set in the environment."`
	Timeout time.Duration `env:"TIMEOUT" default:"10s" help:"Limit for one request."`
}

// Mail is whom alerts are mailed to, through which server. No To means nobody. The
// server's variables are those of the email service.
type Mail struct {
	To       []string      `name:"alert-mail-to" env:"DROVER_ALERT_MAIL_TO" placeholder:"ADDRESS" help:"Mail alerts to these addresses."`
	Addr     string        `name:"smtp-addr" env:"DROVER_SMTP_ADDR" placeholder:"HOST:PORT" help:"SMTP server that takes mail in for delivery."`
	Username string        `name:"smtp-username" env:"DROVER_SMTP_USERNAME" placeholder:"NAME" help:"User to log in as; none means no login."`
	Password secret.Text   `name:"smtp-password" env:"DROVER_SMTP_PASSWORD" placeholder:"SECRET" help:"Password of that user. Better set in the environment."`
	TLS      relay.TLSMode `name:"smtp-tls" env:"DROVER_SMTP_TLS" enum:"starttls,tls,none" default:"starttls" help:"Encryption: starttls, tls, or none."`
	CA       string        `name:"smtp-ca" env:"DROVER_SMTP_CA" placeholder:"FILE" help:"PEM file of the authorities to trust instead of the system's."`
	From     string        `name:"smtp-from" env:"DROVER_SMTP_FROM" placeholder:"ADDRESS" help:"Sender."`
	Timeout  time.Duration `name:"smtp-timeout" env:"DROVER_SMTP_TIMEOUT" default:"5s" help:"Limit for each step with the server; a mail may take four."`
}

// check fills in the defaults and makes the channels, or returns an error that
// names every mistake.
func (c *Config) check() ([]channel, error) {
	var errs []error
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
		name  string
	}{
		{&c.Interval, time.Hour, "--alert-interval"},
		{&c.Gather, 5 * time.Second, "--alert-gather"},
		{&c.Webhook.Timeout, 10 * time.Second, "--alert-webhook-timeout"},
		{&c.Mail.Timeout, 5 * time.Second, "--smtp-timeout"},
		{&c.Sweep, time.Minute, "--sweep"},
		{&c.Overdue, 30 * time.Second, "--timer-overdue"},
		{&c.OrphanSweep, time.Hour, "--orphan-sweep"},
		{&c.OrphanAge, 24 * time.Hour, "--orphan-age"},
		{&c.OrphanRemove, 0, "--orphan-remove"},
		{&c.Lease, 15 * time.Second, "--leader-lease"},
	} {
		if *d.value == 0 {
			*d.value = d.zero
		}
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("%s %v: it cannot be negative", d.name, *d.value))
		}
	}
	if c.OrphanRemove > 0 && c.OrphanRemove < c.OrphanAge {
		errs = append(errs, fmt.Errorf("--orphan-remove %v: want at least --orphan-age, %v", c.OrphanRemove, c.OrphanAge))
	}
	var channels []channel
	if c.Webhook.URL != "" {
		h, err := newHook(c.Webhook)
		channels, errs = append(channels, h), append(errs, err)
	} else if c.Webhook.Secret != "" {
		errs = append(errs, errors.New("--alert-webhook-secret is set and --alert-webhook-url is not"))
	}
	if len(c.Mail.To) > 0 {
		m, err := newMailer(c.Mail)
		channels, errs = append(channels, m), append(errs, err)
	}
	return channels, errors.Join(errs...)
}

// location checks a URL to post to. Its errors do not show the path, which is
// often a secret.
func location(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if err != nil {
		return nil, fmt.Errorf("--alert-webhook-url: %w", err)
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, errors.New("--alert-webhook-url: want https://HOST/… or http://HOST/…")
	}
	return u, nil
}

func parseAddress(flag, text string) (*mail.Address, error) {
	a, err := mail.ParseAddress(text)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", flag, text, err)
	}
	return a, nil
}
