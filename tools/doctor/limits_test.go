package doctor_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/doctor"
)

// configured starts a broker with a configuration, whose %s is a directory.
func configured(tb testing.TB, config string) *server.Server {
	tb.Helper()
	dir := tb.TempDir()
	file := filepath.Join(dir, "nats.conf")
	text := "listen: 127.0.0.1:-1\nserver_name: test\n" + fmt.Sprintf(config, filepath.Join(dir, "store"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	return natstest.Serve(tb, o)
}

// as is the URL of s for a user whose password is "pw".
func as(s *server.Server, user string) string {
	return strings.Replace(s.ClientURL(), "nats://", "nats://"+user+":pw@", 1)
}

// The account has no storage left: RETRY, which has no limit of its own, took it.
func TestAccountFull(t *testing.T) {
	t.Parallel()
	s := configured(t, `jetstream {store_dir: %q}
accounts { FLEET { jetstream: {max_file: 76MB}, users: [{user: ops, password: pw}] } }`)
	f := &fleet{tb: t, url: as(s, "ops"), js: natstest.Connect(t, as(s, "ops")), Fleet: small()}
	f.Classes[0].MaxBytes, f.Dead.MaxBytes, f.Bodies.MaxBytes = 2<<20, 2<<20, 2<<20
	// ADVISORIES reserves 64 MiB, which is more than this account has.
	if _, err := streams.Apply(t.Context(), f.js, f.Fleet); err == nil {
		t.Fatal("Apply made ADVISORIES although the account has no room for it")
	}
	subject := task.Subject{Class: task.Default, Service: "webhook", Action: "deliver"}
	var err error
	for i := 0; err == nil; i++ {
		_, err = f.js.Publish(t.Context(), subject.RetryReady(strconv.Itoa(i)), make([]byte, 900<<10))
	}
	if _, refused := errors.AsType[*jetstream.APIError](err); !refused {
		t.Fatalf("Publish = %v, want a refusal of the broker", err)
	}
	found := first(t, f.examine(), "account-full", "account")
	says(t, found, "the account's storage is full", "max_file", "keeps its slot")
}

// A user who may not read everything is told so, and nothing is called broken.
func TestDenied(t *testing.T) {
	t.Parallel()
	s := configured(t, `jetstream {store_dir: %q}
authorization { users: [
	{user: ops, password: pw}
	{user: guest, password: pw, permissions: {
		publish: {allow: ["$JS.API.INFO", "$JS.API.CONSUMER.INFO.>", "$JS.API.STREAM.INFO.TASKS_DEFAULT"]}
		subscribe: {allow: ["_INBOX_drover.>"]}
	}}
	{user: deaf, password: pw, permissions: {subscribe: {allow: ["nothing"]}}}
] }`)
	f := &fleet{tb: t, url: as(s, "ops"), js: natstest.Connect(t, as(s, "ops")), Fleet: small()}
	f.apply()
	start := time.Now()
	r := examine(t, doctor.Options{Fleet: f.Fleet, URL: as(s, "guest"), Interval: 100 * time.Millisecond})
	found := first(t, r, "not-seen", s.ClientURL())
	says(t, found, "may not read", "stream DEAD", "operator's credentials")
	if len(r.Findings) != 1 {
		t.Errorf("findings = %v, want not-seen alone\n%s", names(r), describe(r))
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v: a refusal must end the wait for an answer", took)
	}
	for _, c := range r.Checks {
		if c.Subject == "tasks" && !c.Skipped {
			t.Errorf("check of tasks = %+v, want it skipped", c)
		}
	}
	says(t, first(t, examine(t, doctor.Options{Fleet: f.Fleet, URL: as(s, "deaf"), Interval: 100 * time.Millisecond}), "inbox-denied", s.ClientURL()), "may not hear answers", "subscribe to _INBOX_drover.>")
	says(t, first(t, examine(t, doctor.Options{Fleet: f.Fleet, URL: as(s, "nobody")}), "broker-credentials", s.ClientURL()), "refuses these credentials")
}

// JetStream is off.
func TestNoJetStream(t *testing.T) {
	t.Parallel()
	s := configured(t, `max_payload: 1MB # %q`)
	first(t, examine(t, doctor.Options{Fleet: small(), URL: s.ClientURL()}), "jetstream-off", s.ClientURL())
}

// A body in BODIES is gone.
func TestBodyMissing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	c, err := client.New(f.js)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), hook{URL: noise(600 << 10)}); err != nil {
		t.Fatal(err)
	}
	store, err := f.js.ObjectStore(t.Context(), task.BodiesBucket)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), objects[0].Name); err != nil {
		t.Fatal(err)
	}
	r := f.examine()
	for _, x := range r.Findings {
		if x.Name == "body-missing" {
			says(t, x, objects[0].Name, "TASKS_DEFAULT", "1 of 1 looked up")
			return
		}
	}
	t.Errorf("no finding body-missing\n%s", describe(r))
}

// Retries of a service that the fleet file has no more, and tasks that the broker
// has given up.
func TestStrays(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	gone := task.Subject{Class: task.Default, Service: "sms", Action: "send"}
	st := task.State{Subject: gone, ID: "a", Attempt: 1, Reason: task.Retried, EnqueuedAt: time.Now()}
	if _, err := f.js.PublishMsg(t.Context(), &nats.Msg{Subject: gone.RetryReady("a"), Header: st.Header(nil)}); err != nil {
		t.Fatal(err)
	}
	says(t, first(t, f.examine(), "stray", "stream RETRY"), "1 of default/sms")
	if _, err := f.js.Publish(t.Context(), "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.TASKS_DEFAULT.webhook", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	r := f.examine()
	if n := len(r.Findings); n != 2 || r.Findings[1].Name != "given-up" {
		t.Errorf("findings = %v, want stray and given-up", names(r))
	}
}

// What processes say of themselves explains what the broker sees.
func TestPresence(t *testing.T) {
	t.Parallel()
	f := newFleet(t, small())
	kv, err := f.js.KeyValue(t.Context(), task.FleetBucket)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key, text string) {
		if _, err := kv.PutString(t.Context(), key, text); err != nil {
			t.Fatal(err)
		}
	}
	put("process.webhook.a", `{"service":"webhook","instance":"a","host":"h1","pid":7,"version":"1.2","busy":[{"kind":"webhook.deliver","running":2,"longest_seconds":41}]}`)
	put("process.webhook.b", `{"service":"webhook","instance":"b","host":"h2","pid":8,"version":"1.3"}`)
	put("process.webhook.c", `what is this`)
	put("process.webhook.d", `{"service":"webhook"}`)
	if err := kv.Delete(t.Context(), "process.webhook.d"); err != nil {
		t.Fatal(err)
	}
	put("pause.default.webhook", `{"class":"default","service":"webhook","by":"ada","reason":"the provider moves","at":"2026-03-04T05:06:07Z"}`)
	if _, err := f.js.PauseConsumer(t.Context(), "TASKS_DEFAULT", "webhook", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r := f.examine()
	says(t, first(t, r, "lane-paused", "default/webhook"), "paused by ada at 2026-03-04T05:06:07Z: the provider moves")
	for _, c := range r.Checks {
		if want := "processes that announce themselves: webhook 2; of different versions: webhook 1.2 and 1.3"; c.Subject == "processes" && c.Text != want {
			t.Errorf("check of processes = %q, want %q", c.Text, want)
		}
	}
}
