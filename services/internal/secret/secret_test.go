package secret_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/droverhq/drover/services/internal/secret"
)

func TestTextDoesNotPrint(t *testing.T) {
	t.Parallel()
	type config struct{ Password secret.Text }
	c := config{Password: "hunter2"}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{string(b), fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%q", c), c.Password.String()} {
		if strings.Contains(got, "hunter2") {
			t.Errorf("the configuration prints as %s", got)
		}
	}
	if got := fmt.Sprint(secret.Text("")); got != "" {
		t.Errorf("no secret prints as %q", got)
	}
}
