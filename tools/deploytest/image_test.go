package deploytest_test

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/droverhq/drover/services/cmd/catalog"
)

const (
	containerfile = root + "/deploy/Containerfile"
	ignoreFile    = containerfile + ".dockerignore"
	uid           = "65532:65532"
	stamp         = "v0.0.0-7-gdeploytest-dirty" // VERSION, as git describe writes one
)

// instruction is one of a Containerfile, continued lines joined.
type instruction struct{ name, args string }

func parseContainerfile() ([]instruction, error) {
	text, err := os.ReadFile(containerfile)
	if err != nil {
		return nil, err
	}
	var all []instruction
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", "")) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, args, _ := strings.Cut(line, " ")
		all = append(all, instruction{name, strings.TrimSpace(args)})
	}
	return all, nil
}

// argsOf returns the arguments of all instructions of that name, in order.
func argsOf(all []instruction, name string) []string {
	var args []string
	for _, i := range all {
		if i.name == name {
			args = append(args, i.args)
		}
	}
	return args
}

// buildArgs are the names of the --build-arg that come into the stage that builds:
// those before the first FROM are for FROM alone.
func buildArgs(all []instruction) []string {
	var names []string
	from := slices.IndexFunc(all, func(in instruction) bool { return in.name == "FROM" })
	for _, arg := range argsOf(all[max(0, from):], "ARG") {
		name, _, _ := strings.Cut(arg, "=")
		names = append(names, name)
	}
	return names
}

// Whoever shows how to build an image passes arguments that the build has, and the
// version among them: without it `drover ps` cannot tell releases apart.
func TestBuildArgs(t *testing.T) {
	t.Parallel()
	all, err := parseContainerfile()
	if err != nil {
		t.Fatal(err)
	}
	has := buildArgs(all)
	passed := map[string][]string{}
	for _, file := range []string{containerfile, root + "/deploy/README.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range regexp.MustCompile(`(?m)^.* docker build .*$`).FindAllString(string(text), -1) {
			for _, m := range regexp.MustCompile(`--build-arg (\w+)=`).FindAllStringSubmatch(line, -1) {
				where := file + ": " + strings.TrimSpace(line)
				passed[where] = append(passed[where], m[1])
			}
		}
	}
	if len(passed) < 4 {
		t.Errorf("%d lines build an image, want two in the Containerfile and two in its description: %v", len(passed), passed)
	}
	for name, c := range readCompose(t).Services {
		if c.ours() {
			passed[composeFile+": "+name] = slices.Sorted(maps.Keys(c.Build.Args))
		}
	}
	for where, names := range passed {
		for _, name := range names {
			if !slices.Contains(has, name) {
				t.Errorf("%s\nThe build has no argument %s", where, name)
			}
		}
		if !slices.Contains(names, "VERSION") {
			t.Errorf("%s\nIt passes no VERSION", where)
		}
	}
}

func TestContainerfile(t *testing.T) {
	t.Parallel()
	all, err := parseContainerfile()
	if err != nil {
		t.Fatal(err)
	}
	last := 0 // of the stage that becomes the image
	for i, in := range all {
		if in.name == "FROM" {
			last = i
		}
	}
	image := all[last:]
	if got := image[0].args; got != "scratch" {
		t.Errorf("the image is built on %s, want scratch", got)
	}
	if runs := argsOf(image, "RUN"); len(runs) > 0 {
		t.Errorf("the image has no shell to run %v", runs)
	}
	if got := argsOf(image, "USER"); !slices.Equal(got, []string{uid}) {
		t.Errorf("the image runs as %v, want %s", got, uid)
	}
	if got := argsOf(image, "ENTRYPOINT"); !slices.Equal(got, []string{`["/app"]`}) {
		t.Errorf("the entrypoint is %v, want /app, without a shell", got)
	}
	env := strings.Join(argsOf(all, "ENV"), " ")
	for _, want := range []string{"CGO_ENABLED=0", "GOTOOLCHAIN=local"} {
		if !strings.Contains(env, want) {
			t.Errorf("the build's environment is %q, want %s in it", env, want)
		}
	}
	builds := regexp.MustCompile(`go build [^&]*`).FindAllString(strings.Join(argsOf(all, "RUN"), "\n"), -1)
	if len(builds) == 0 {
		t.Error("nothing is built")
	}
	for _, b := range builds {
		if !strings.Contains(b, "-trimpath") {
			t.Errorf("%s: want -trimpath", b)
		}
	}
	version, ok := strings.CutPrefix(all[0].args, "GO_VERSION=")
	if have := strings.TrimPrefix(runtime.Version(), "go"); !ok || have != version {
		t.Errorf("the image is built with Go %q and tested with %s", version, have)
	}
}

// The Containerfile's build, run here on what its context would hold: it makes
// the command of every image, static and without paths of this machine.
func TestImages(t *testing.T) {
	t.Parallel()
	for _, pkg := range packages() {
		t.Run(path.Base(pkg), func(t *testing.T) {
			t.Parallel()
			out := build(t, pkg)
			for _, name := range []string{"app", "probe"} {
				checkBinary(t, filepath.Join(out, name))
			}
			info, err := buildinfo.ReadFile(filepath.Join(out, "app"))
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.TrimPrefix(pkg, "."); !strings.HasSuffix(info.Path, want) {
				t.Errorf("/app is %s, want %s", info.Path, want)
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join(out, "app"), "--help")
			cmd.Env = []string{}
			if text, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(text, []byte("Usage:")) {
				t.Errorf("/app --help in an empty environment: %v\n%s", err, text)
			}
			version := "--version"
			if pkg == "./tools/drover" {
				version = "version"
			}
			text, err := exec.CommandContext(t.Context(), filepath.Join(out, "app"), version).CombinedOutput()
			if err != nil || !slices.Contains(strings.Fields(string(text)), stamp) {
				t.Errorf("/app %s: %v, want %s in\n%s", version, err, stamp, text)
			}
		})
	}
}

func checkBinary(t *testing.T, file string) {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s needs a dynamic linker, and the image has none", file)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(here+"/")) {
		t.Errorf("%s names %s: -trimpath is to keep it out", file, here)
	}
}

// packages are what images are built from: each service, and the command.
func packages() []string {
	all := []string{"./tools/drover"}
	for _, s := range catalog.All() {
		all = append(all, "./services/cmd/"+s.Name)
	}
	return all
}

// images are the builds of this test process, each made once.
var images = func() map[string]func() (string, error) {
	m := map[string]func() (string, error){}
	for _, pkg := range packages() {
		m[pkg] = sync.OnceValues(func() (string, error) { return makeImage(pkg) })
	}
	return m
}()

// build runs the Containerfile's build of pkg, and returns the folder that stands
// for /out in it.
func build(t *testing.T, pkg string) string {
	t.Helper()
	if images[pkg] == nil {
		t.Fatalf("no service and no command is built from %s", pkg)
	}
	dir, err := images[pkg]()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func makeImage(pkg string) (string, error) {
	all, err := parseContainerfile()
	if err != nil {
		return "", err
	}
	from, err := buildContext()
	if err != nil {
		return "", fmt.Errorf("copy the build context: %w", err)
	}
	out := filepath.Join(scratch, path.Base(pkg))
	script := strings.Join(argsOf(all, "RUN"), "\n")
	script = regexp.MustCompile(`--mount=\S+`).ReplaceAllString(script, "")
	script = strings.ReplaceAll(script, "/out/", out+"/")
	cmd := exec.Command("sh", "-c", script) // without a context: tests share it, and none of them may end it
	cmd.Dir = from
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=") // the image's build has neither variable
	for _, arg := range []string{"PACKAGE=" + pkg, "VERSION=" + stamp} {
		if name, _, _ := strings.Cut(arg, "="); slices.Contains(buildArgs(all), name) { // no other comes into the build
			cmd.Env = append(cmd.Env, arg)
		}
	}
	for pair := range strings.FieldsSeq(strings.Join(argsOf(all, "ENV"), " ")) {
		cmd.Env = append(cmd.Env, os.Expand(pair, func(string) string { return "" })) // no target platform means this one
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s as the Containerfile does: %w\n%s", pkg, err, text)
	}
	return out, nil
}

// buildContext is a folder with what `COPY . .` copies: the repository without
// what the ignore file names.
var buildContext = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "context")
	ignored, err := ignore()
	if err != nil {
		return "", err
	}
	return dir, filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		switch {
		case err != nil:
			return err
		case ignored(rel) && d.IsDir():
			return fs.SkipDir
		case ignored(rel):
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dir, rel), 0o750)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), text, 0o600)
	})
})

// ignore returns what reports whether a path of the repository is ignored. It
// knows the two forms of pattern that the file uses: NAME at the root, and
// **/PATTERN anywhere.
func ignore() (func(string) bool, error) {
	text, err := os.ReadFile(ignoreFile)
	if err != nil {
		return nil, err
	}
	var top, anywhere []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		pattern, deep := strings.CutPrefix(line, "**/")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.ContainsAny(pattern, "/!"):
			return nil, fmt.Errorf("%s: this test does not know patterns such as %q", ignoreFile, line)
		case deep:
			anywhere = append(anywhere, pattern)
		default:
			top = append(top, pattern)
		}
	}
	return func(rel string) bool {
		return slices.Contains(top, rel) || slices.ContainsFunc(anywhere, func(p string) bool {
			ok, _ := path.Match(p, path.Base(rel)) // a bad pattern matches nothing, and the build is larger
			return ok
		})
	}, nil
}
