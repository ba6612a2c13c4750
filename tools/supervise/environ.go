package supervise

import (
	"slices"
	"strings"
)

// parentEnv tells a process that a supervisor started it.
const parentEnv = "DROVER_SUPERVISED"

// A task that kills its process takes with it the spans of its neighbours that were
// not sent yet. The SDK would keep them for 5 s.
const (
	spanDelayEnv = "OTEL_BSP_SCHEDULE_DELAY"
	spanDelay    = "500" // ms
)

// environ is the environment of a child: that of this process, without what would
// lead it elsewhere, then what every child needs, then the caller's.
func (c *Config) environ(own []string, url string) []string {
	elsewhere := []string{"DROVER_CREDS", "DROVER_NKEY", "DROVER_NATS_WAIT", "DROVER_CLASS", "DROVER_POOL", "DROVER_FLEET", "DROVER_CHILD"}
	env := slices.DeleteFunc(slices.Clone(own), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(elsewhere, name)
	})
	env = append(env,
		parentEnv+"=1",
		"DROVER_NATS_URL="+url,
		"DROVER_ADMIN_ADDR=127.0.0.1:0",
		"DROVER_DRAIN="+c.Drain.String(),
		"DROVER_LOG_FORMAT=text", // which output.go reads
	)
	if !slices.Contains(own, "DROVER_LOG_LEVEL=debug") {
		env = append(env, "DROVER_LOG_LEVEL=info")
	}
	if !slices.ContainsFunc(own, func(v string) bool { return strings.HasPrefix(v, spanDelayEnv+"=") }) {
		env = append(env, spanDelayEnv+"="+spanDelay)
	}
	if c.FleetFile != "" {
		env = append(env, "DROVER_FLEET="+c.FleetFile)
	}
	return append(env, c.Env...)
}
