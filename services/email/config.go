package email

import (
	"errors"
	"fmt"
	"net/mail"
	"time"

	"github.com/droverhq/drover/services/internal/relay"
	"github.com/droverhq/drover/services/internal/secret"
)

// Config says through which server mail leaves and whose name it carries. It can
// be embedded in the command line of a kong program. Addr and From are needed,
// every other zero value means its default.
type Config struct {
	Addr     string        `name:"smtp-addr" env:"DROVER_SMTP_ADDR" placeholder:"HOST:PORT" help:"SMTP server that takes mail in for delivery."`
	Username string        `name:"smtp-username" env:"DROVER_SMTP_USERNAME" placeholder:"NAME" help:"User to log in as; none means no login."`
	Password secret.Text   `name:"smtp-password" env:"DROVER_SMTP_PASSWORD" placeholder:"SECRET" help:"Password of that user. Better set in the environment: other users of the machine can read a command line."`
	TLS      relay.TLSMode `name:"smtp-tls" env:"DROVER_SMTP_TLS" enum:"starttls,tls,none" default:"starttls" help:"Encryption: starttls, tls, or none."`
	CA       string        `name:"smtp-ca" env:"DROVER_SMTP_CA" placeholder:"FILE" help:"PEM file of the authorities to trust instead of the system's."`
	From     string        `name:"smtp-from" env:"DROVER_SMTP_FROM" placeholder:"ADDRESS" help:"Sender of mail that names none. Mail that does may use this domain only."`

	// Timeout bounds connecting, with greeting, TLS and login, and then each
	// reply of the server but the last. 0 means 5 s.
	Timeout time.Duration `name:"smtp-timeout" env:"DROVER_SMTP_TIMEOUT" default:"5s" help:"Limit for connecting and logging in, and for each reply."`
	// DataTimeout bounds the transfer of the message and the reply to it, for
	// which servers take their time to look for spam. Giving up there risks a
	// second copy. 0 means 30 s.
	DataTimeout time.Duration `name:"smtp-data-timeout" env:"DROVER_SMTP_DATA_TIMEOUT" default:"30s" help:"Limit for the transfer of a message and the reply to it."`
	// Idle is how long an unused connection is kept. 0 means 30 s.
	Idle time.Duration `name:"smtp-idle" env:"DROVER_SMTP_IDLE" default:"30s" help:"How long to keep an unused connection."`
	// MaxIdle is how many unused connections are kept. 0 means 32, one for each
	// slot of class default.
	MaxIdle int `name:"smtp-max-idle" env:"DROVER_SMTP_MAX_IDLE" default:"32" help:"How many unused connections to keep."`
}

// settings is a checked Config.
type settings struct {
	Config

	relay.Route

	from *mail.Address
}

// check fills in the defaults, and returns an error that names every mistake.
func (c Config) check() (settings, error) {
	s := settings{Config: c}
	var errs []error
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
		name  string
	}{{&s.Timeout, 5 * time.Second, "timeout"}, {&s.DataTimeout, 30 * time.Second, "data timeout"}, {&s.Idle, 30 * time.Second, "idle"}} {
		if *d.value == 0 {
			*d.value = d.zero
		}
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("smtp %s %v is negative", d.name, *d.value))
		}
	}
	if s.MaxIdle == 0 {
		s.MaxIdle = 32
	}
	if s.MaxIdle < 0 {
		errs = append(errs, fmt.Errorf("smtp max idle %d is negative", s.MaxIdle))
	}
	var err error
	s.Route, err = relay.Server{Addr: s.Addr, Username: s.Username, Password: s.Password, TLS: s.TLS, CA: s.CA}.Route()
	errs = append(errs, err, s.login(), s.sender())
	return s, errors.Join(errs...)
}

func (s *settings) login() error {
	if s.Password != "" && s.Username == "" {
		return errors.New("smtp password is set and the user name is not: set DROVER_SMTP_USERNAME")
	}
	return nil
}

func (s *settings) sender() error {
	if s.From == "" {
		return errors.New("smtp sender is not set: set DROVER_SMTP_FROM to an address")
	}
	var err error
	if s.from, err = parseAddress(s.From); err != nil {
		return fmt.Errorf("smtp sender: %w", err)
	}
	return nil
}
