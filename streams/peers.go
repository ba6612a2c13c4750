package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// peersWait is how long servers have to say that they are there, when fewer do
// than are needed.
const peersWait = time.Second

// peers counts the servers with JetStream that a stream can have a copy on, and
// stops at need. 0 means that it cannot be said: these credentials may not ask. A
// nats-server 2.15 that was told to reload its configuration passes the question on
// to nobody, until it is started again: it is asked only for more than is known.
func peers(ctx context.Context, nc *nats.Conn, need int) (int, error) {
	if nc.ConnectedClusterName() == "" {
		return 1, nil
	}
	ctx, cancel := context.WithTimeout(ctx, peersWait)
	defer cancel()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return 0, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
	// Every server answers this one, also to those who are not of the system account.
	if err := nc.PublishRequest("$SYS.REQ.ACCOUNT.PING.STATZ", inbox, []byte(`{"include_unused":true}`)); err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	for len(seen) < need {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			break // nobody else answers in time
		}
		var answer struct {
			Server struct {
				ID        string `json:"id"`
				Cluster   string `json:"cluster"`
				JetStream bool   `json:"jetstream"`
			} `json:"server"`
		}
		if json.Unmarshal(msg.Data, &answer) == nil && answer.Server.JetStream && answer.Server.Cluster == nc.ConnectedClusterName() {
			seen[answer.Server.ID] = true
		}
	}
	return len(seen), nil
}

// servers is how many servers of a cluster that answer a copy is on.
func servers(c *jetstream.ClusterInfo) int {
	if c == nil {
		return 1
	}
	n := 0
	if c.Leader != "" {
		n++
	}
	for _, r := range c.Replicas {
		if !r.Offline {
			n++
		}
	}
	return n
}

// replicas refuses more copies than there are servers, before the broker would in
// the middle of it.
func (p *planner) replicas(ctx context.Context) error {
	most := 0 // that a change asks for
	for _, s := range p.steps {
		if s.copies > 1 {
			most = max(most, s.copies)
		}
	}
	if most <= p.nodes {
		return nil
	}
	n, err := peers(ctx, p.js.Conn(), most)
	if err != nil {
		return fmt.Errorf("count the servers: %w", err)
	}
	if n == 0 || n >= most {
		return nil
	}
	there := fmt.Sprintf("there are %d servers", n)
	if n == 1 {
		there = "there is 1 server"
	}
	p.steps = append([]step{{Change: Change{
		Object: "fleet", Action: Refuse,
		Fields: []Diff{{Field: "replicas", From: fmt.Sprintf("at most %d", n), To: strconv.Itoa(most)}},
		Note: fmt.Sprintf("it asks for more replicas than the broker has nodes: %s with JetStream, and %d copies need %d. "+
			"Start more, or lower replicas in the fleet file. Through a server that was told to reload its configuration the others cannot be seen: restart it", there, most, most),
	}}}, p.steps...)
	return nil
}
