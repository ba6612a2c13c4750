package webhook

import "net"

// SetResolver makes d look up names with r. It must be called before the first
// delivery.
func (d *Deliverer) SetResolver(r *net.Resolver) { d.dialer.Resolver = r }
