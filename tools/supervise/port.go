package supervise

import (
	"context"
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	defaultPort = 4222
	greetLimit  = 300 * time.Millisecond // for a server on this machine to say what it is
)

// occupant says who has the broker's port, as far as it tells, and what to do, for
// the end of an error.
func occupant(ctx context.Context, port int) string {
	remedy := "choose another port with --port; --port 0 takes any free one"
	d := net.Dialer{Timeout: greetLimit}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return ": " + remedy
	}
	defer func() { _ = conn.Close() }() // it was only read
	_ = conn.SetReadDeadline(time.Now().Add(greetLimit))
	greeting := make([]byte, 4<<10)
	n, _ := conn.Read(greeting) // no greeting is an answer as well
	info, ok := strings.CutPrefix(string(greeting[:n]), "INFO ")
	var server struct {
		Name    string `json:"server_name"`
		Version string `json:"version"`
	}
	switch {
	case !ok:
		return " by something that is no nats-server: " + remedy
	case json.NewDecoder(strings.NewReader(info)).Decode(&server) != nil || server.Name != "drover":
		return " by another nats-server " + server.Version + ": " + remedy
	}
	return " by another `drover up`: end that one, or " + remedy
}
