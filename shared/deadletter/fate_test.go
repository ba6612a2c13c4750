package deadletter_test

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

// A task is where its generation is, whatever others of its id are elsewhere.
func TestFateOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// What is stored of the task: its generation, and attempts that failed.
		tasks, retry, dead [][2]int
		want               deadletter.Fate
	}{
		{name: "gone", want: deadletter.Gone},
		{name: "waiting", tasks: [][2]int{{1, 0}}, want: deadletter.Waiting},
		{name: "moved and not yet acknowledged", tasks: [][2]int{{1, 0}}, dead: [][2]int{{1, 1}}, want: deadletter.Waiting},
		{name: "given back", retry: [][2]int{{1, 0}}, want: deadletter.Delayed},
		{name: "its first attempt failed", retry: [][2]int{{1, 1}}, want: deadletter.Retrying},
		{name: "dead again", dead: [][2]int{{1, 2}}, want: deadletter.Died},
		{name: "the old letter stays", dead: [][2]int{{0, 2}}, want: deadletter.Gone},
		{name: "redriven once more", retry: [][2]int{{2, 1}}, want: deadletter.Gone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.JetStream(t)
			fleet(t, js)
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: task.RetryStream, Subjects: []string{"retry.>"}}); err != nil {
				t.Fatal(err)
			}
			s := dead("one")
			for subject, list := range map[string][][2]int{s.Subject.String(): tt.tasks, s.Subject.RetryWait("one"): tt.retry, s.Subject.Dead("one"): tt.dead} {
				for _, m := range list {
					s.Generation, s.Attempt = m[0], m[1]
					put(t, js, subject, s.Header(nats.Header{}), nil)
				}
			}
			l := deadletter.Letter{State: dead("one")}
			got, text, err := deadletter.FateOf(t.Context(), js, l, client.Receipt{Stream: "TASKS_DEFAULT", Sequence: 1})
			if err != nil || got != tt.want {
				t.Errorf("FateOf = %v, %v, want %v", got, err, tt.want)
			}
			if failed := tt.want == deadletter.Retrying || tt.want == deadletter.Died; got.Failed() != failed || failed && text != "Mailbox Full" {
				t.Errorf("FateOf = %v with %q, want its last error where it failed", got, text)
			}
		})
	}
}
