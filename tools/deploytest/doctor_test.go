package deploytest_test

import (
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/streams"
	"github.com/droverhq/drover/tools/doctor"
)

// The operator's key is all that the doctor needs, and a fleet that has only been
// applied is healthy. A service's key sees less, and is told so.
func TestDoctorByKey(t *testing.T) {
	t.Parallel()
	g := guard(t, fleetOfShops())
	for _, tt := range []struct {
		user string
		want string // the first finding; "" for none
	}{
		{streams.OperatorUser, ""},
		{"email", "not-seen"},
	} {
		t.Run(tt.user, func(t *testing.T) {
			t.Parallel()
			r, err := doctor.Examine(t.Context(), doctor.Options{
				Fleet: g.fleet, URL: g.url, NKey: filepath.Join(g.dir, tt.user+".nk"), User: tt.user,
			})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if len(r.Findings) > 0 {
				got = r.Findings[0].Name
			}
			if got != tt.want {
				t.Errorf("first finding of %s = %q, want %q: %+v", tt.user, got, tt.want, r.Findings)
			}
		})
	}
}
