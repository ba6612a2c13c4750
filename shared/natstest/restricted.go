package natstest

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Restricted is [JetStream] with two users: one with only these permissions, who
// connects with opts, and one who may do everything.
func Restricted(tb testing.TB, p server.Permissions, opts ...nats.Option) (user, admin jetstream.JetStream) {
	tb.Helper()
	s := serve(tb, &server.Options{
		DontListen: true, StoreDir: tb.TempDir(),
		Users: []*server.User{{Username: "admin", Password: "admin"}, {Username: "user", Password: "user", Permissions: &p}},
	})
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // nats.go would print each refusal
	return connect(tb, s, append(opts, quiet, nats.UserInfo("user", "user"))...), connect(tb, s, nats.UserInfo("admin", "admin"))
}
