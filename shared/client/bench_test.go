package client_test

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/droverhq/drover/shared/client"
	"github.com/droverhq/drover/shared/natstest"
	"github.com/droverhq/drover/shared/task"
)

var (
	benchTask    = Send{To: "someone@example.org", Text: strings.Repeat("x", 200)}
	benchSubject = task.Subject{Class: task.Default, Service: "email", Action: "send"}.String()
)

const benchBatch = 10_000

func bench(b *testing.B) (jetstream.JetStream, *client.Client) {
	b.Helper()
	_, js := natstest.Listen(b)
	fleet(b, js)
	b.ReportAllocs()
	return js, newClient(b, js)
}

func rate(b *testing.B, n int) {
	b.Helper()
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "tasks/s")
}

func BenchmarkPublish(b *testing.B) {
	_, c := bench(b)
	for b.Loop() {
		if _, err := c.Publish(b.Context(), benchTask); err != nil {
			b.Fatal(err)
		}
	}
	rate(b, 1)
}

// BenchmarkPublishBare is one round trip of nats.go with the same message.
func BenchmarkPublishBare(b *testing.B) {
	js, _ := bench(b)
	body, err := task.Marshal(benchTask)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := js.Publish(b.Context(), benchSubject, body, jetstream.WithMsgID(rand.Text())); err != nil {
			b.Fatal(err)
		}
	}
	rate(b, 1)
}

func BenchmarkPublishAll(b *testing.B) {
	js, c := bench(b)
	tasks := make([]Send, benchBatch)
	for i := range tasks {
		tasks[i] = benchTask
	}
	for b.Loop() {
		if _, err := client.PublishAll(b.Context(), c, tasks); err != nil {
			b.Fatal(err)
		}
	}
	rate(b, benchBatch)
	_ = js
}

// BenchmarkPublishAllBare is nats.go's async publish of the same messages, whose
// bodies are encoded beforehand.
func BenchmarkPublishAllBare(b *testing.B) {
	js, _ := bench(b)
	body, err := task.Marshal(benchTask)
	if err != nil {
		b.Fatal(err)
	}
	futures := make([]jetstream.PubAckFuture, benchBatch)
	for b.Loop() {
		for i := range futures {
			if futures[i], err = js.PublishMsgAsync(&nats.Msg{
				Subject: benchSubject, Data: body, Header: nats.Header{task.HeaderMsgID: {rand.Text()}},
			}, jetstream.WithStallWait(1e10)); err != nil {
				b.Fatal(err)
			}
		}
		for _, f := range futures {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				b.Fatal(err)
			}
		}
	}
	rate(b, benchBatch)
}
