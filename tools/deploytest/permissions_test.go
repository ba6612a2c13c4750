package deploytest_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/streams"
)

// Who may do what. Each line is one message published, or one subscription, over a
// connection with that user's key to a broker with the generated permissions.
func TestPermissions(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	users := map[string]*user{}
	for _, u := range g.fleet.Users() {
		if u.Role != streams.SystemRole {
			users[u.Name] = g.as(t, u.Name)
		}
	}
	const yes, no = true, false
	for _, tt := range []struct {
		who, what, subject string
		allowed            bool
	}{
		{"producer", "publish a task", "tasks.default.email.send", yes},
		{"producer", "publish another service's task", "tasks.urgent.webhook.deliver.acme", yes},
		{"producer", "publish a retry", "retry.ready.default.email.send.1", no},
		{"producer", "publish a timer", "retry.wait.default.email.send.1", no},
		{"producer", "publish a dead letter", "dead.default.email.send.1", no},
		{"producer", "publish a later task", "later.default.email.send.1", no},
		{"producer", "store a body", "$O.BODIES.C.x", no},
		{"producer", "pull tasks", "$JS.API.CONSUMER.MSG.NEXT.TASKS_DEFAULT.email", no},
		{"producer", "acknowledge a task", "$JS.ACK.TASKS_DEFAULT.email.1.1.1.1.0", no},
		{"producer", "read a stream", "$JS.API.STREAM.MSG.GET.TASKS_DEFAULT", no},
		{"producer", "read a stream directly", "$JS.API.DIRECT.GET.DEAD", no},
		{"producer", "list streams", "$JS.API.STREAM.NAMES", no},
		{"producer", "delete a stream", "$JS.API.STREAM.DELETE.TASKS_DEFAULT", no},
		{"producer", "answer into another's inbox", "_INBOX_email.x.1", no},
		{"producer", "pause a lane", "$KV.FLEET.pause.default.email", no},
		{"producer", "hear its inbox", "sub _INBOX_producer.x.*", yes},
		{"producer", "hear another's inbox", "sub _INBOX_email.>", no},
		{"producer", "hear all inboxes", "sub _INBOX.>", no},
		{"producer", "hear tasks as they are published", "sub tasks.>", no},
		{"producer", "hear everything", "sub >", no},
		{"producer", "hear advisories", "sub $JS.EVENT.>", no},

		{"shop", "publish its task", "tasks.urgent.email.reset", yes},
		{"shop", "publish to another class", "tasks.default.email.send", no},
		{"shop", "publish to another service", "tasks.urgent.webhook.deliver", no},
		{"shop", "store a body", "$O.BODIES.M.x", no},

		{"archive", "store the content of a body", "$O.BODIES.C.x", yes},
		{"archive", "store the description of a body", "$O.BODIES.M.x", yes},
		{"archive", "remove bodies", "$JS.API.STREAM.PURGE.OBJ_BODIES", no},
		{"archive", "list bodies", "$JS.API.STREAM.INFO.OBJ_BODIES", no},
		{"archive", "read bodies", "$JS.API.DIRECT.GET.OBJ_BODIES.$O.BODIES.M.x", no},

		{"email", "pull its tasks", "$JS.API.CONSUMER.MSG.NEXT.TASKS_URGENT.email", yes},
		{"email", "pull its tasks of a partition", "$JS.API.CONSUMER.MSG.NEXT.TASKS_BULK.email-7", yes},
		{"email", "pull another's tasks of a partition", "$JS.API.CONSUMER.MSG.NEXT.TASKS_BULK.webhook-7", no},
		{"email", "acknowledge its task of a partition", "$JS.ACK.TASKS_BULK.email-7.1.1.1.1.0", yes},
		{"email", "acknowledge another's task of a partition", "$JS.ACK.TASKS_BULK.webhook-7.1.1.1.1.0", no},
		{"email", "pull its retries", "$JS.API.CONSUMER.MSG.NEXT.RETRY.urgent-email", yes},
		{"email", "pull another's tasks", "$JS.API.CONSUMER.MSG.NEXT.TASKS_URGENT.webhook", no},
		{"email", "pull another's retries", "$JS.API.CONSUMER.MSG.NEXT.RETRY.urgent-webhook", no},
		{"email", "acknowledge its task", "$JS.ACK.TASKS_URGENT.email.1.1.1.1.0", yes},
		{"email", "acknowledge its task, second form", "$JS.ACK._.hash.TASKS_URGENT.email.1.1.1.1.0", yes},
		{"email", "acknowledge its retry", "$JS.ACK.RETRY.urgent-email.1.1.1.1.0", yes},
		{"email", "acknowledge another's task", "$JS.ACK.TASKS_URGENT.webhook.1.1.1.1.0", no},
		{"email", "acknowledge another's task, second form", "$JS.ACK._.hash.TASKS_URGENT.webhook.1.1.1.1.0", no},
		{"email", "acknowledge another's retry", "$JS.ACK.RETRY.urgent-webhook.1.1.1.1.0", no},
		{"email", "retry its task", "retry.ready.urgent.email.send.1", yes},
		{"email", "set a timer", "retry.wait.urgent.email.send.1", yes},
		{"email", "retry another's task", "retry.ready.urgent.webhook.deliver.1", no},
		{"email", "set another's timer", "retry.wait.urgent.webhook.deliver.1", no},
		{"email", "retry in a class that it does not serve", "retry.ready.slow.email.send.1", no},
		{"email", "bury its task", "dead.urgent.email.send.1", yes},
		{"email", "bury another's task", "dead.urgent.webhook.deliver.1", no},
		{"email", "publish a later task", "later.urgent.email.send.1", no},
		{"email", "publish a task", "tasks.urgent.email.send", no},
		{"email", "look for an earlier move", "$JS.API.STREAM.MSG.GET.RETRY", yes},
		{"email", "look for an earlier death", "$JS.API.STREAM.MSG.GET.DEAD", yes},
		{"email", "read live tasks", "$JS.API.STREAM.MSG.GET.TASKS_URGENT", no},
		{"email", "read live tasks directly", "$JS.API.DIRECT.GET.TASKS_URGENT", no},
		{"email", "read a body", "$JS.API.DIRECT.GET.OBJ_BODIES", yes},
		{"email", "remove a body", "$JS.API.STREAM.PURGE.OBJ_BODIES", yes},
		{"email", "store a body", "$O.BODIES.C.x", no},
		{"email", "check a stream", "$JS.API.STREAM.INFO.TASKS_URGENT", yes},
		{"email", "check its consumer", "$JS.API.CONSUMER.INFO.TASKS_URGENT.email", yes},
		{"email", "check another's consumer", "$JS.API.CONSUMER.INFO.TASKS_URGENT.webhook", no},
		{"email", "delete a dead letter", "$JS.API.STREAM.MSG.DELETE.DEAD", no},
		{"email", "purge a stream", "$JS.API.STREAM.PURGE.RETRY", no},
		{"email", "create a stream", "$JS.API.STREAM.CREATE.MINE", no},
		{"email", "change a stream", "$JS.API.STREAM.UPDATE.RETRY", no},
		{"email", "delete a stream", "$JS.API.STREAM.DELETE.RETRY", no},
		{"email", "create a consumer of tasks", "$JS.API.CONSUMER.CREATE.TASKS_URGENT.x", no},
		{"email", "create a durable of tasks", "$JS.API.CONSUMER.DURABLE.CREATE.TASKS_URGENT.x", no},
		{"email", "delete a consumer", "$JS.API.CONSUMER.DELETE.TASKS_URGENT.email", no},
		{"email", "pause its consumer", "$JS.API.CONSUMER.PAUSE.TASKS_URGENT.email", no},
		{"email", "say that it runs", "$KV.FLEET.process.email.1", yes},
		{"email", "say that it recycles", "$KV.FLEET.recycle.email", yes},
		{"email", "speak for another", "$KV.FLEET.process.webhook.1", no},
		{"email", "pause a lane", "$KV.FLEET.pause.urgent.email", no},
		{"email", "read what is paused", "$JS.API.DIRECT.GET.KV_FLEET.$KV.FLEET.pause.urgent.email", yes},
		{"email", "watch what is paused", "$JS.API.CONSUMER.CREATE.KV_FLEET.x.$KV.FLEET.>", yes},
		{"email", "write the audit", "audit.redrive", no},
		{"email", "share its breakers", "$KV.BREAKERS.email.x", yes},
		{"email", "open another's breaker", "$KV.BREAKERS.webhook.x", no},
		{"email", "tell what failed", "breakers.email", yes},
		{"email", "hear what failed", "sub breakers.email", yes},
		{"email", "tell another's failures", "breakers.webhook", no},
		{"email", "hear another's failures", "sub breakers.webhook", no},
		{"email", "take of its rate", "$KV.LIMITS.rate.email.x", yes},
		{"email", "take of another's rate", "$KV.LIMITS.rate.webhook.x", no},
		{"email", "take of a resource", "$KV.LIMITS.cap.x", yes},
		{"email", "write alerts", "$KV.ALERTS.x", no},
		{"email", "answer into another's inbox", "_INBOX_webhook.x.1", no},
		{"email", "hear its inbox", "sub _INBOX_email.x.>", yes},
		{"email", "hear another's inbox", "sub _INBOX_webhook.>", no},
		{"email", "hear the operator's inbox", "sub _INBOX_drover.>", no},
		{"email", "hear tasks", "sub tasks.urgent.email.>", no},
		{"email", "ask the servers", "$SYS.REQ.SERVER.PING", no},

		{"deadletter", "pull advisories", "$JS.API.CONSUMER.MSG.NEXT.ADVISORIES.deadletter", yes},
		{"deadletter", "copy a task by sequence", "$JS.API.STREAM.MSG.GET.TASKS_URGENT", yes},
		{"deadletter", "bury it", "dead.urgent.email.send.1", yes},
		{"deadletter", "delete the original", "$JS.API.STREAM.MSG.DELETE.TASKS_URGENT", yes},
		{"deadletter", "see new dead letters", "$JS.API.CONSUMER.MSG.NEXT.DEAD.deadletter", yes},
		{"deadletter", "set a timer again", "retry.wait.urgent.email.send.1", yes},
		{"deadletter", "make a retry due", "retry.ready.urgent.email.send.1", no},
		{"deadletter", "look for strays", "$JS.API.CONSUMER.INFO.TASKS_URGENT.email", yes},
		{"deadletter", "change ADVISORIES", "$JS.API.STREAM.MSG.DELETE.ADVISORIES", no},
		{"deadletter", "remember an alert", "$KV.ALERTS.x", yes},
		{"deadletter", "remove an orphaned body", "$JS.API.STREAM.PURGE.OBJ_BODIES", yes},
		{"deadletter", "delete a dead letter", "$JS.API.STREAM.MSG.DELETE.DEAD", no},
		{"deadletter", "purge tasks", "$JS.API.STREAM.PURGE.TASKS_URGENT", no},
		{"deadletter", "pull tasks", "$JS.API.CONSUMER.MSG.NEXT.TASKS_URGENT.email", no},
		{"deadletter", "publish a task", "tasks.urgent.email.send", no},
		{"deadletter", "write the audit", "audit.discard", no},

		{"drover", "publish a task", "tasks.default.email.send", yes},
		{"drover", "list streams", "$JS.API.STREAM.NAMES", yes},
		{"drover", "delete a dead letter", "$JS.API.STREAM.MSG.DELETE.DEAD", yes},
		{"drover", "pause a lane", "$KV.FLEET.pause.urgent.email", yes},
		{"drover", "write the audit", "audit.redrive", yes},
		{"drover", "hear advisories", "sub $JS.EVENT.>", yes},
		{"drover", "hear another's inbox", "sub _INBOX_email.>", no},
		{"drover", "hear everything", "sub >", no},
		{"drover", "use a subject that is not Drover's", "billing.invoice", no},
		{"drover", "ask about its account", "$SYS.REQ.ACCOUNT.PING.STATZ", yes},
		{"drover", "ask about another account", "$SYS.REQ.ACCOUNT.SYS.CONNZ", no},
		{"drover", "ask the servers", "$SYS.REQ.SERVER.PING", no},
	} {
		t.Run(tt.who+" "+tt.what, func(t *testing.T) { // one after the other: they share a connection
			u := users[tt.who]
			err := u.refusal(t, func() error {
				if subject, ok := strings.CutPrefix(tt.subject, "sub "); ok {
					sub, err := u.nc.Subscribe(subject, func(*nats.Msg) {})
					if err == nil {
						t.Cleanup(func() { _ = sub.Unsubscribe() })
					}
					return err
				}
				// What is not JSON is refused by every function of the API.
				return u.nc.Publish(tt.subject, []byte("test"))
			})
			if allowed := err == nil; allowed != tt.allowed {
				t.Errorf("%s on %s: allowed = %v (%v), want %v", tt.who, tt.subject, allowed, err, tt.allowed)
			}
		})
	}
}
