package service

import (
	"runtime"
	"runtime/debug"
)

// version is that of the module the binary was built from, "(devel)" for a build
// from a working copy without version control.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// build is version with what it was built for.
func build() string {
	return version() + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}
