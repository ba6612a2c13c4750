package service

import (
	"cmp"
	"runtime"
	"runtime/debug"
)

// stamped is the version as the linker was told it, empty unless a build says
//
//	go build -ldflags "-X github.com/droverhq/drover/services/service.stamped=v1.2.3"
//
// as images are built: what they are built from has no version control.
var stamped string

// Version is that of this program: the one that its build was told, otherwise that
// of the module it was built from, and "(devel)" for a build from a working copy
// without version control. It is what `drover ps` shows of a process.
func Version() string {
	of := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		of = info.Main.Version
	}
	return cmp.Or(stamped, of, "(devel)")
}

// build is the version with what it was built for.
func build() string {
	return Version() + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}
