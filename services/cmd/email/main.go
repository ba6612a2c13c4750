// Command email is the email service: it works the tasks whose kinds begin with
// "email.".
package main

import (
	"github.com/droverhq/drover/services/cmd/email/emaild"
	"github.com/droverhq/drover/services/service"
)

func main() { service.Main(emaild.Service()) }
