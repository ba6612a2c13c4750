package streams_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/retry"
	"github.com/droverhq/drover/shared/task"
	"github.com/droverhq/drover/streams"
)

// The table of the design, by which a class is chosen.
func TestDefaultClasses(t *testing.T) {
	t.Parallel()
	type row struct {
		Name               task.Class
		AckWait, TimeLimit time.Duration
		Attempts, Deliver  int
		Objective          time.Duration
		Slots, RetrySlots  int
		Base, Cap          time.Duration
	}
	want := []row{
		{task.Urgent, 20 * time.Second, 15 * time.Second, 5, 3, 100 * time.Millisecond, 64, 16, time.Second, 10 * time.Minute},
		{task.Default, 30 * time.Second, time.Minute, 5, 3, 5 * time.Second, 32, 8, time.Second, 10 * time.Minute},
		{task.Slow, 30 * time.Second, 15 * time.Minute, 5, 3, 2 * time.Minute, 4, 2, 5 * time.Second, 10 * time.Minute},
		{task.Bulk, 30 * time.Second, 30 * time.Minute, 5, 3, time.Hour, 16, 4, 10 * time.Second, 10 * time.Minute},
	}
	var got []row
	for _, c := range streams.Default().Classes {
		got = append(got, row{c.Name, c.AckWait, c.TimeLimit, c.Attempts, c.MaxDeliver, c.WaitObjective, c.Slots, c.RetrySlots, c.Backoff.Base, c.Backoff.Cap})
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("classes of Default() (-want +got):\n%s", d)
	}
}

func TestDefault(t *testing.T) {
	t.Parallel()
	f := streams.Default()
	if err := f.Validate(); err != nil {
		t.Fatalf("Validate() = %v", err)
	}
	f.Classes[0].Slots = 1
	if c, _ := streams.Default().Class(task.Urgent); c.Slots != 64 {
		t.Errorf("Default() is shared: slots = %d after a change of another copy", c.Slots)
	}
	if s, ok := f.Service("webhook"); !ok || !s.Serves(task.Bulk) || s.Serves(task.Slow) {
		t.Errorf("Service(webhook) = %+v, %v, want it to serve bulk and not slow", s, ok)
	}
	if _, ok := f.Service("emial"); ok {
		t.Error("Service(emial) is found")
	}
	if _, ok := f.Class("urgnet"); ok {
		t.Error("Class(urgnet) is found")
	}
	c, _ := f.Class(task.Bulk)
	if d := cmp.Diff(retry.Policy{Base: 10 * time.Second, Cap: 10 * time.Minute, Attempts: 5}, c.Retry()); d != "" {
		t.Errorf("Retry() of bulk (-want +got):\n%s", d)
	}
}

const valid = `classes:
  - name: urgent
    ack_wait: 20s
    time_limit: 15s
    attempts: 5
    max_deliver: 3
    wait_objective: 100ms
    slots: 4
services:
  - name: email
    classes: [urgent]
`

func TestParseDefaults(t *testing.T) {
	t.Parallel()
	got, err := streams.Parse([]byte(valid))
	if err != nil {
		t.Fatal(err)
	}
	want := &streams.Fleet{
		Replicas: 1,
		Classes: []streams.Class{{
			Name: task.Urgent, AckWait: 20 * time.Second, TimeLimit: 15 * time.Second, Attempts: 5, MaxDeliver: 3,
			WaitObjective: 100 * time.Millisecond, Slots: 4, RetrySlots: 2, MaxBytes: 1 << 30,
			Backoff: streams.Backoff{Base: time.Second, Cap: 10 * time.Minute},
		}},
		Services: []streams.Service{{Name: "email", Classes: []task.Class{task.Urgent}, Processes: 1}},
		Dead:     streams.Store{MaxBytes: 1 << 30},
		Bodies:   streams.Store{MaxBytes: 2 << 30},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Parse (-want +got):\n%s", d)
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		old, new string // edit of valid; an empty old appends new
		want     []string
	}{
		{"unknown key", "slots: 4", "slot: 4", []string{"[8:5]", "slot"}},
		{"unknown key at the top", "", "partitions: 8\n", []string{"[12:1]", "partitions"}},
		{"key twice", "", "services: []\n", []string{"[12:1]", "services"}},
		{"duration without unit", "ack_wait: 20s", "ack_wait: 20", []string{"[3:15]", "20 is not a duration", "20s"}},
		{"duration of a wrong unit", "ack_wait: 20s", "ack_wait: 20x", []string{"[3:15]", "20x is not a duration"}},
		{"duration is a list", "ack_wait: 20s", "ack_wait: [20s]", []string{"[3:15]", "is not a duration"}},
		{"size of a wrong unit", "slots: 4", "slots: 4\n    max_bytes: 1GB", []string{"[9:16]", "1GB is not a size", "512MiB"}},
		{"size overflows", "slots: 4", "slots: 4\n    max_bytes: 99999999TiB", []string{"[9:16]", "is not a size"}},
		{"limit on RETRY", "", "retry: {max_bytes: 1GiB}\n", []string{"[12:8]", "drop the oldest tasks", "account's storage"}},
		{"a tag that go-yaml panics on", valid, "classes: !x 1\n", []string{"cannot be read"}},
		{"two documents", "", "---\nreplicas: 3\n", []string{"more than one document"}},
		{"no classes", valid, "services: []\n", []string{"classes: there are none", "services: there are none"}},
		{"class name becomes a stream", "- name: urgent", "- name: Urgent-1", []string{`name "Urgent-1"`, "a-z and 0-9"}},
		{"ack-wait is short", "ack_wait: 20s", "ack_wait: 5s", []string{"class urgent: ack_wait: 5s, want at least 20s", "election", "allow_short_ack_wait"}},
		{"required", "ack_wait: 20s\n    time_limit: 15s", "retry_slots: 1", []string{"ack_wait: 0s", "time_limit: 0s"}},
		{"no slots", "slots: 4", "slots: 0", []string{"class urgent: slots: 0, want 1 to"}},
		{"negative", "slots: 4", "slots: 4\n    retry_slots: -1\n    max_bytes: -1", []string{"retry_slots: -1", "max_bytes: -1"}},
		{"max-deliver reaches the backstop", "max_deliver: 3", "max_deliver: 20", []string{"max_deliver: 20, want 1 to 19"}},
		{"backoff", "slots: 4", "slots: 4\n    backoff: {base: 1m, cap: 1s}", []string{"class urgent: backoff", "below base"}},
		{"replicas", "", "replicas: 2\n", []string{"replicas: 2, want 1, 3 or 5"}},
		{"stream too small for a task", "slots: 4", "slots: 4\n    max_bytes: 512KiB", []string{"max_bytes: 512KiB, want 1MiB to"}},
		{"service name", "- name: email", "- name: e.mail", []string{"service 1: name", "e.mail"}},
		{"service twice", "", "  - name: Email\n    classes: [urgent]\n", []string{"service Email: is named twice (email)"}},
		{"unknown class", "[urgent]", "[urgent, slow]", []string{`service email: classes: there is no class "slow"`}},
		{"class twice", "[urgent]", "[urgent, urgent]", []string{"service email: classes: urgent is named twice"}},
		{"serves nothing", "[urgent]", "[]", []string{"service email: classes: it serves none"}},
		{"processes", "[urgent]", "[urgent]\n    processes: -2", []string{"service email: processes: -2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := valid + tt.new
			if tt.old != "" {
				if text = strings.Replace(valid, tt.old, tt.new, 1); text == valid {
					t.Fatalf("%q is not in the valid file", tt.old)
				}
			}
			_, err := streams.Parse([]byte(text))
			if err == nil {
				t.Fatalf("Parse succeeds on:\n%s", text)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Parse error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestParseClassTwice(t *testing.T) {
	t.Parallel()
	class := valid[strings.Index(valid, "  - name"):strings.Index(valid, "services:")]
	_, err := streams.Parse([]byte(strings.Replace(valid, "services:", class+"services:", 1)))
	if err == nil || !strings.Contains(err.Error(), "class urgent: is named twice") {
		t.Errorf("Parse = %v, want that urgent is named twice", err)
	}
}

func TestParseEmpty(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "# only a comment\n"} {
		if _, err := streams.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), "empty") {
			t.Errorf("Parse(%q) = %v, want that it is empty", text, err)
		}
	}
}

func TestShortAckWaitForTests(t *testing.T) {
	t.Parallel()
	text := strings.Replace(valid, "ack_wait: 20s", "ack_wait: 2s", 1) + "allow_short_ack_wait: true\n"
	f, err := streams.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Classes[0].AckWait; got != 2*time.Second {
		t.Errorf("AckWait = %v, want 2s", got)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if _, err := streams.Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of no file = %v, want that it does not exist", err)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"valid", valid, ""},
		{"invalid", valid + "x: 1\n", path},
	} {
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := streams.Load(path)
		switch {
		case tt.want == "" && (err != nil || len(f.Classes) != 1):
			t.Errorf("Load of the %s file = %v, %v", tt.name, f, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("Load of the %s file = %v, want an error naming %s", tt.name, err, tt.want)
		}
	}
}

// Nothing that an operator can write into the file may end the process.
func FuzzParse(f *testing.F) {
	def, err := os.ReadFile("fleet.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{def, []byte(valid), []byte("a: &a [*a]"), []byte("classes: [{slots: 1e400}]"), bytes.Repeat([]byte("["), 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fleet, err := streams.Parse(b)
		if err == nil {
			err = fleet.Validate()
			fleet.Topology()
		}
		if fleet != nil && err != nil {
			t.Errorf("Parse returns a fleet that Validate refuses: %v", err)
		}
	})
}
