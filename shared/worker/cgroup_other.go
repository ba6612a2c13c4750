//go:build !linux

package worker

import (
	"errors"
	"syscall"
)

// Elsewhere there are no cgroups.
type cgroups struct {
	dir          string
	memory, pids bool
	lacking      string
}

func delegated() (*cgroups, error) { return nil, errors.New("this system has none") }

func (c *cgroups) add(string, *isolation) (*group, error) { return nil, errors.ErrUnsupported }
func (c *cgroups) sweep() int                             { return 0 }

type group struct {
	of          *cgroups
	dir         string
	oom, capped bool
}

func killCgroup(string) {}

func (g *group) into(*syscall.SysProcAttr)                {}
func (g *group) refused(*syscall.SysProcAttr, error) bool { return false }
func (g *group) join(*syscall.SysProcAttr, int) error     { return nil }
func (g *group) kill()                                    {}
func (g *group) end() error                               { return nil }
