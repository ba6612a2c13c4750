package service

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// size is a flag in bytes, written as in the fleet file: 200MiB.
type size int64

// UnmarshalText is called by kong.
func (s *size) UnmarshalText(text []byte) error {
	number, by := string(text), int64(1)
	for shift, unit := range []string{"KiB", "MiB", "GiB"} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, by = n, 1<<(10*(shift+1))
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/by {
		return fmt.Errorf("%q is not a size: want a whole number of bytes, or one with KiB, MiB or GiB, such as 200MiB", text)
	}
	*s = size(n * by)
	return nil
}
