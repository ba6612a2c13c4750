package main

import (
	"bytes"
	"strings"
	"testing"
)

// A value that makes no sense is wrong usage before anything is connected to, and the
// error says what would do.
func TestNonsense(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ args, want string }{
		{"version --timeout 0", "drover: --timeout 0s: want more than nothing\n"},
		{"lanes --timeout=-1s", "--timeout -1s: want more than nothing"},
		{"lanes --every 0", "--every 0s: want 10ms or more"},
		{"lanes --watch --every 1ns", "--every 1ns: want 10ms or more"},
		{"bench --rounds 0", "--rounds 0: want 1 or more"},
		{"bench --rounds=-1 --quick", "--rounds -1: want 1 or more"},
		{"bench --tasks 1", "--tasks 1: want 2 or more"},
		{"up --every 0", "--every 0s and --drain 25s: want more than nothing"},
		{"up --drain=-1s", "--every 10s and --drain -1s: want more than nothing"},
		{"up --port=-1", "--port -1: want 1 to 65535"},
		{"up --scale email=-1", "--scale email=-1: want 0 to 64"},
		{"up --scale email=65", "--scale email=65: want 0 to 64"},
		{"enqueue email.send --count 0", "--count 0: want at least 1"},
		{"enqueue email.send --wait-for-room=-1s", "--wait-for-room -1s: want a duration such as 10s"},
		{"pause bulk --for=-1h", "--for -1h0m0s: want more than nothing"},
		{"breakers open webhook a --for 0", "--for 0s: want 1s to 24h0m0s"},
		{"tasks ls --limit 0", "--limit 0: want 1 or more"},
		{"tasks show x --scan 0", "--scan 0: want 1 or more"},
		{"audit --limit=-1", "--limit -1: want 0 for all, or more"},
		{"audit --since 1h --until 2h", "nothing is between them"},
		{"dead --limit=-1", "--limit -1: want 0 for all, or more"},
		{"dead ls --limit=-1", "--limit -1: want 0 for all, or more"},
		{"dead ls --since=-1h", "--since \"-1h\": want a duration such as 24h or 7d"},
		{"dead ls --since 2027-01-02 --until 2027-01-01", "nothing is between them"},
		{"dead discard --all --why x --limit 0", "--limit 0: want 1 or more"},
		{"dead redrive --all --limit=-1", "--limit -1: want 1 or more"},
		{"dead redrive --all --wait 0", "--wait 0s: want more than nothing"},
		{"dead redrive --all --rate 0/s", "\"0/s\": want a rate such as 50/s or 600/m"},
		{"dead edit --all --set a=b --max-failures=-1", "\"-1\": want a number such as 5"},
		{"dead edit --all --set a=b --max-failures=101%", "want a share from 0% to 100%"},
		{"run webhook --webhook-timeout 0", "--webhook-timeout 0s: want more than nothing"},
		{"run email --smtp-idle=0s", "--smtp-idle 0s: want more than nothing"},
		{"run deadletter --leader-lease 0", "--leader-lease 0s: want more than nothing"},
		{"run webhook --nats-wait=-1s", "--nats-wait -1s"},
		{"run webhook --recycle-after=-1", "--recycle-after -1"},
	} {
		var out, errs bytes.Buffer
		code := execute(t.Context(), strings.Fields(test.args), strings.NewReader(""), &out, &errs)
		want := exitUsage
		if strings.HasPrefix(test.args, "run ") {
			want = exitConfig
		}
		if code != want || !strings.Contains(errs.String(), test.want) {
			t.Errorf("drover %s = %d: %s, want %d: %s", test.args, code, &errs, want, test.want)
		}
	}
}
