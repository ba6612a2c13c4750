// Command webhook is the webhook service: it works the tasks whose kinds begin
// with "webhook.".
package main

import (
	"github.com/droverhq/drover/services/cmd/webhook/webhookd"
	"github.com/droverhq/drover/services/service"
)

func main() { service.Main(webhookd.Service()) }
