package client_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

func TestMain(m *testing.M) { natstest.Main(m, nil) }

// A broker is killed and started again, four times, while tasks are published one by
// one and all together. Every task must end up stored once, because ids hold over
// a restart for tasks that are still stored.
func TestBrokerKilledWhilePublishing(t *testing.T) {
	t.Parallel()
	b := natstest.StartBroker(t)
	js := b.Connect(t)
	js.Conn().SetErrorHandler(nil) // it would print each reconnect
	fleet(t, js)
	c := newClient(t, js)

	const batch = 2000
	var mu sync.Mutex
	all := map[string]Send{} // by id
	stored := make(chan struct{}, 1)
	note := func(rc client.Receipt, s Send, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil || rc.Stream == "" || rc.Duplicate {
			t.Errorf("outcome of %s = %+v, %v, want it stored", s.To, rc, err)
		}
		if all[rc.ID] = s; len(all)%batch == 0 {
			select {
			case stored <- struct{}{}:
			default:
			}
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			tasks := make([]Send, batch)
			for i := range tasks {
				tasks[i].To = fmt.Sprintf("all %d.%d", n, i)
			}
			out, err := client.PublishAll(t.Context(), c, tasks)
			if err != nil {
				t.Errorf("PublishAll = %v", err)
			}
			for i, o := range out {
				note(o.Receipt, tasks[i], o.Err)
			}
		}
	})
	for p := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				s := Send{To: fmt.Sprintf("one %d.%d", p, n)}
				rc, err := c.Publish(t.Context(), s)
				note(rc, s, err)
			}
		})
	}
	for range 4 {
		<-stored
		<-stored
		b.Kill()
		b.Restart(t)
	}
	<-stored
	close(stop)
	wg.Wait()
	checkOnce(t, js, all)
}

// checkOnce fails unless the stream holds exactly the tasks in want.
func checkOnce(t *testing.T, js jetstream.JetStream, want map[string]Send) {
	t.Helper()
	stream, err := js.Stream(t.Context(), task.Default.Stream())
	if err != nil {
		t.Fatal(err)
	}
	cons, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1})
	if err != nil {
		t.Fatal(err)
	}
	n := int(stream.CachedInfo().State.Msgs)
	if n != len(want) {
		t.Errorf("%d tasks are stored, want %d", n, len(want))
	}
	for left := n; left > 0; {
		batch, err := cons.Fetch(min(left, 1000), jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for m := range batch.Messages() {
			got++
			id := m.Headers().Get(task.HeaderMsgID)
			var s Send
			if err := task.Unmarshal(m.Data(), &s); err != nil || s != want[id] {
				t.Errorf("task %s is %v (%v), want %v", id, s, err, want[id])
			}
			delete(want, id)
		}
		if got == 0 {
			t.Fatalf("%d of %d tasks cannot be fetched: %v", left, n, batch.Error())
		}
		left -= got
	}
	if len(want) != 0 {
		t.Errorf("%d tasks are not stored", len(want))
	}
	t.Logf("%d tasks stored once", n)
}
