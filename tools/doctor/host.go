package doctor

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// Host is what tells whether this process runs in a container. The zero value is
// a machine that has none of it.
type Host struct {
	DockerEnv    bool   // /.dockerenv exists
	ContainerEnv bool   // /run/.containerenv exists
	Cgroup       string // /proc/1/cgroup
	Container    string // the environment variable container, as systemd and podman set it
	Kubernetes   string // the environment variable KUBERNETES_SERVICE_HOST
}

// ThisHost reads the facts of this machine.
func ThisHost() Host {
	cgroup, _ := os.ReadFile("/proc/1/cgroup") // not on every system
	return Host{
		DockerEnv: exists("/.dockerenv"), ContainerEnv: exists("/run/.containerenv"), Cgroup: string(cgroup),
		Container: os.Getenv("container"), Kubernetes: os.Getenv("KUBERNETES_SERVICE_HOST"),
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// container returns what shows that h is a container, and "" when nothing does.
func (h Host) container() string {
	switch {
	case h.DockerEnv:
		return "/.dockerenv exists"
	case h.ContainerEnv:
		return "/run/.containerenv exists"
	case h.Kubernetes != "":
		return "KUBERNETES_SERVICE_HOST is set"
	case h.Container != "":
		return "the environment has container=" + h.Container
	}
	for _, name := range []string{"docker", "kubepods", "containerd", "libpod", "lxc"} {
		if strings.Contains(h.Cgroup, name) {
			return "/proc/1/cgroup names " + name
		}
	}
	return ""
}
