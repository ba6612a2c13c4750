package streams

import (
	"fmt"
	"strconv"
	"time"
)

// humanBytes is n in the largest unit that divides it, so that two sizes read the
// same only when they are: "1 GiB", "1025 B".
func humanBytes(n int64) string {
	for _, u := range units() {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + " " + u.name
		}
	}
	return strconv.FormatInt(n, 10) + " B"
}

// humanDuration is d in the largest unit that divides it: "30 s", "7 d".
func humanDuration(d time.Duration) string {
	for _, u := range []struct {
		name string
		is   time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}} {
		if d != 0 && d%u.is == 0 {
			return fmt.Sprintf("%d %s", d/u.is, u.name)
		}
	}
	return d.String()
}

// roughBytes is n to the tenth of its unit, for sizes that nobody chose.
func roughBytes(n uint64) string {
	for _, u := range units() {
		if n >= uint64(u.bytes) {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.bytes), u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}
