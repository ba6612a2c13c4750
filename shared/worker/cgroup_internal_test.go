//go:build linux

package worker

import "testing"

func TestPlace(t *testing.T) {
	t.Parallel()
	const (
		unified = "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		hybrid  = "24 20 0:21 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n26 20 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		bound   = "25 20 0:22 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
	)
	for _, tt := range []struct {
		name, cgroup, mountinfo string
		mount, dir              string // "" for an error
	}{
		{"a unit", "0::/system.slice/image.service\n", unified, "/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/image.service"},
		{"the root", "0::/\n", unified, "/sys/fs/cgroup", "/sys/fs/cgroup"},
		{"beside version 1", "4:memory:/x\n0::/a\n", hybrid, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/a"},
		{"a part is mounted", "0::/docker/abc/worker\n", bound, "/sys/fs/cgroup", "/sys/fs/cgroup/worker"},
		{"another part is mounted", "0::/docker/abcd\n", bound, "", ""},
		{"from outside of a namespace", "0::/../a\n", bound, "", ""},
		{"version 1 alone", "4:memory:/x\n", hybrid, "", ""},
		{"nothing mounted", "0::/\n", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			mount, dir, err := place(tt.cgroup, tt.mountinfo)
			if mount != tt.mount || dir != tt.dir || (err == nil) != (tt.dir != "") {
				t.Errorf("place = %q, %q, %v, want %q, %q", mount, dir, err, tt.mount, tt.dir)
			}
		})
	}
}
