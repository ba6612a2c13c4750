package chaos_test

import (
	"testing"

	"github.com/droverhq/drover/shared/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m, nil) }
