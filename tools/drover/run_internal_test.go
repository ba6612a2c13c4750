package main

import (
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

// What came before the name of a service is passed on, unless the service is told
// otherwise or reads it from the environment by itself.
func TestGiven(t *testing.T) { //nolint:paralleltest // of the environment
	t.Setenv("DROVER_NATS_URL", "")
	t.Setenv("DROVER_FLEET", "")
	for _, tt := range []struct {
		name, env, nkey string
		own, want       []string
	}{
		{name: "nothing"},
		{name: "a flag", nkey: "/k/email.nk", want: []string{"--nkey", "/k/email.nk"}},
		{name: "the environment", env: "/k/drover.nk", nkey: "/k/drover.nk"},
		{name: "a relative path there", env: "k/drover.nk", nkey: kong.ExpandPath("k/drover.nk")},
		{name: "a flag beats it", env: "k/drover.nk", nkey: "/k/email.nk", want: []string{"--nkey", "/k/email.nk"}},
		{name: "said again", nkey: "/k/drover.nk", own: []string{"--admin", "", "--nkey", "k/email.nk"}},
		{name: "said again in one word", nkey: "/k/drover.nk", own: []string{"--nkey=k/email.nk"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("DROVER_NKEY", tt.env)
			app := &App{Globals: Globals{NATS: "nats://127.0.0.1:4222", NKey: tt.nkey}}
			if diff := cmp.Diff(tt.want, app.given(tt.own)); diff != "" {
				t.Errorf("given (-want +got):\n%s", diff)
			}
		})
	}
}
