// Package catalog lists the services that there are, for programs that start any
// of them by its name: `drover run` and `drover up`. A service's own binary does
// not import it, so that it links no other service.
package catalog

import (
	"github.com/droverhq/drover/services/cmd/deadletter/deadletterd"
	"github.com/droverhq/drover/services/cmd/email/emaild"
	"github.com/droverhq/drover/services/cmd/webhook/webhookd"
	"github.com/droverhq/drover/services/service"
)

// All returns every service, by name, none of them configured.
func All() []service.Service {
	return []service.Service{deadletterd.Service(), emaild.Service(), webhookd.Service()}
}

// Find returns the service of that name, and whether there is one.
func Find(name string) (service.Service, bool) {
	for _, s := range All() {
		if s.Name == name {
			return s, true
		}
	}
	return service.Service{}, false
}
