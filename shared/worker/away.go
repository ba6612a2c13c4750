package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/droverhq/drover/shared/telemetry"
)

const (
	awayLimit = 15 * time.Second // for a pull to be in order again: an election takes 6 to 8 s
	awayEvery = 30 * time.Second // between two changes of the node
)

// move goes to another node of the broker when no lane is served by this one. A
// node that is cut off from the others keeps its clients and answers their pings,
// so that nothing else would end the connection.
func (w *Worker) move(now time.Time) {
	if len(w.nc.Servers()) < 2 || !w.nc.IsConnected() {
		return
	}
	for _, l := range w.lanes {
		l.mu.Lock()
		served := now.Sub(l.served) <= awayLimit
		l.mu.Unlock()
		if served {
			return
		}
	}
	w.mu.Lock()
	again := now.Sub(w.moved) >= awayEvery
	if again {
		w.moved = now
	}
	w.mu.Unlock()
	if !again {
		return
	}
	w.log.WarnContext(context.Background(), "the broker's node serves nothing, connecting to another one",
		slog.String("url", w.nc.ConnectedUrlRedacted()), slog.String(telemetry.TaskService, w.service))
	if err := w.nc.ForceReconnect(); err != nil {
		w.log.WarnContext(context.Background(), "the broker's node serves nothing and cannot be left", slog.Any("error", err))
	}
}
