package demo

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

func filled(t *testing.T) (*ledger, time.Time) {
	t.Helper()
	l, now := newLedger(), time.Now()
	for _, id := range []string{"done", "twice", "dead", "lost", "both", "again"} {
		l.publish(client.Receipt{ID: id}, "part", "name of "+id, task.Default, now)
	}
	for _, key := range []string{"done:0", "twice:0", "twice:0", "both:0", "again:1"} {
		l.end(key)
	}
	l.redrive("again")
	l.die(map[string]task.Reason{"dead": task.Permanent, "both": task.Failed})
	return l, now
}

func TestLedgerAccounts(t *testing.T) {
	t.Parallel()
	l, _ := filled(t)
	got := l.tally("part")
	want := Tally{Part: "part", Published: 6, Done: 3, Twice: 1, Dead: map[task.Reason]int{task.Permanent: 1, task.Failed: 1}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("tally() (-want +got):\n%s", d)
	}
	if got.open() != 1 {
		t.Errorf("open() = %d, want 1", got.open())
	}
	missing := []string{
		"part: name of lost (lost) is neither done nor dead",
		"part: name of both (both) is dead, and was done as well",
	}
	if d := cmp.Diff(missing, l.missing()); d != "" {
		t.Errorf("missing() (-want +got):\n%s", d)
	}
	if !l.finished("again") || l.finished("lost") {
		t.Error("finished() is wrong about a redriven or a lost task")
	}
}

// Evidence may come before the publisher knows the task's id.
func TestLedgerTakesEarlyEvidence(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	l.end("a:0")
	l.start("a@example.org", now.Add(2*time.Millisecond))
	l.start("a@example.org", now.Add(time.Second)) // a second attempt is no start
	l.died("b", task.Permanent)
	l.publish(client.Receipt{ID: "a"}, "part", "a@example.org", task.Urgent, now)
	l.publish(client.Receipt{ID: "b"}, "part", "b@example.org", task.Bulk, now)
	if d := cmp.Diff(Tally{Part: "part", Published: 2, Done: 1, Dead: map[task.Reason]int{task.Permanent: 1}}, l.tally("part")); d != "" {
		t.Errorf("tally() (-want +got):\n%s", d)
	}
	two := 2 * time.Millisecond
	if d := cmp.Diff([]Wait{{Of: "urgent", Count: 1, P50: two, P99: two, Max: two}}, l.waits()); d != "" {
		t.Errorf("waits() (-want +got):\n%s", d)
	}
}

func TestLedgerCountsMovesOnce(t *testing.T) {
	t.Parallel()
	l := newLedger()
	move := func(subject, msgID, reason string) bool {
		_, ok := l.move(&nats.Msg{Subject: subject, Header: nats.Header{
			task.HeaderMsgID: {msgID}, task.HeaderID: {"a"}, task.HeaderSubject: {"tasks.default.email.send"}, task.HeaderReason: {reason},
		}})
		return ok
	}
	got := []bool{
		move("retry.wait.default.email.send.a", "1", "retry"),
		move("retry.wait.default.email.send.a", "1", "retry"), // published again, because its answer was lost
		move("retry.ready.default.email.send.a", "", "retry"), // the timer fires
		move("retry.wait.default.email.send.a", "2", "after"),
		move("dead.default.email.send.a", "3", "failed"),
	}
	if d := cmp.Diff([]bool{true, false, false, true, true}, got); d != "" {
		t.Errorf("move() (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[task.Reason]int{task.Retried: 1, task.PutOff: 1}, l.put); d != "" {
		t.Errorf("moves by reason (-want +got):\n%s", d)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	var all []time.Duration
	for i := range 200 {
		all = append(all, time.Duration(200-i)*time.Millisecond)
	}
	w := newWait("x", all)
	if d := cmp.Diff(Wait{Of: "x", Count: 200, P50: 100 * time.Millisecond, P99: 198 * time.Millisecond, Max: 200 * time.Millisecond}, w); d != "" {
		t.Errorf("newWait() (-want +got):\n%s", d)
	}
	b, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"count":200,"max_seconds":0.2,"of":"x","p50_seconds":0.1,"p99_seconds":0.198}`; string(b) != want {
		t.Errorf("JSON = %s, want %s", b, want)
	}
}

// What is wrong makes the report say so, and the command fail.
func TestJudge(t *testing.T) {
	t.Parallel()
	l, _ := filled(t)
	d := &demo{ledger: l}
	r := &Report{OK: true, Left: map[string]uint64{"RETRY": 2}, Total: l.tally(""), Tasks: []Tally{l.tally("part")}, Crash: Crash{Processes: 4, Children: 1, Limit: 4}}
	d.fleet = fleet(t)
	d.judge(r, 3, []string{"email-1 ended"})
	want := []string{
		"part: name of lost (lost) is neither done nor dead",
		"part: name of both (both) is dead, and was done as well",
		"6 tasks were published, and 5 are done or dead",
		"DEAD holds 0 letters, and 2 tasks are dead",
		"RETRY still holds 2 tasks",
		"part: 1 tasks were done more than once although no process of theirs died",
		"3 deliveries had a wrong signature",
		"the killer has cost 5 processes, 4 are allowed",
		"unexpected: email-1 ended",
	}
	if d := cmp.Diff(want, r.Problems); d != "" || r.OK {
		t.Errorf("ok = %v, problems (-want +got):\n%s", r.OK, d)
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	const text = "deliver webhook to http://127.0.0.1:1: answered 500: Internal Server Error"
	if got := short(text, 50); got != "answered 500: Internal Server Error" {
		t.Errorf("short() = %q", got)
	}
	if got := short(text, 500); got != text {
		t.Errorf("short() = %q", got)
	}
	if got := short("one two three", 5); got != "one two three" {
		t.Errorf("short() = %q", got)
	}
}

func fleet(t *testing.T) *streams.Fleet {
	t.Helper()
	f, err := streams.Parse(fleetFile)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
