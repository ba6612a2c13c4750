package dev

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// Env configures the services email and webhook for a mail server and a receiver,
// as KEY=VALUE, except for what own says already: the environment of a person who
// wants something else. mail may be nil.
func Env(own []string, mail *MailServer, hooks *Receiver) []string {
	var env []string
	if mail != nil {
		env = append(env, "DROVER_SMTP_ADDR="+mail.Addr(), "DROVER_SMTP_TLS=none", "DROVER_SMTP_FROM=drover@example.com")
	}
	port := ""
	if u, err := url.Parse(hooks.URL()); err == nil {
		_, port, _ = net.SplitHostPort(u.Host)
	}
	env = append(env, "DROVER_WEBHOOK_SECRETS=default="+hooks.o.Secret, "DROVER_WEBHOOK_ALLOW=127.0.0.0/8", "DROVER_WEBHOOK_PORTS=443,"+port,
		"DROVER_WEBHOOK_BREAKER_OPEN=5s") // whoever mends the receiver does not want to wait five minutes for that to show
	return slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return Has(own, name)
	})
}

// Has reports whether an environment has a variable of that name.
func Has(env []string, name string) bool {
	return slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
}
