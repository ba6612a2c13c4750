package drover_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/droverhq/drover"

// source is what the rules need to know of one Go file.
type source struct {
	path    string   // from the repository's root, with slashes
	pkg     string   // as in the package clause
	doc     string   // the package comment of this file, or ""
	lines   int      // all of them, blank ones and comments too
	imports []string // import paths
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// rule says who must not import whom, and why not.
type rule struct {
	name string
	in   []string // folders it holds for, with everything below them
	deny []string // import paths, with everything below them
	why  string

	productionOnly bool // does not hold for _test.go files
}

var rules = []rule{
	{
		name: "policies are pure",
		in:   []string{"shared/retry", "shared/breaker", "shared/semaphore", "shared/ratelimit"},
		deny: []string{module},
		why:  "a policy decides from its arguments alone, so that it can be read, tested and reused by itself",

		productionOnly: true,
	},
	{
		name: "client does not import worker",
		in:   []string{"shared/client"},
		deny: []string{module + "/shared/worker"},
		why:  "a producer must not link the runtime; what both need belongs in shared/task",

		productionOnly: true,
	},
	{
		name: "worker does not import client",
		in:   []string{"shared/worker"},
		deny: []string{module + "/shared/client"},
		why:  "moving a message is not publishing a task; what both need belongs in shared/task",

		productionOnly: true,
	},
	{
		name: "shared knows no fleet",
		in:   []string{"shared"},
		deny: []string{module + "/services", module + "/tools"},
		why:  "shared is what strangers import: it knows nobody who runs on it",
	},
	{
		name: "shared makes no topology",
		in:   []string{"shared"},
		deny: []string{module + "/streams"},
		why:  "shared binds to the topology it finds, so that strangers can have one of their own",

		productionOnly: true, // a test may run on the fleet's
	},
	{
		name: "streams knows no service",
		in:   []string{"streams"},
		deny: []string{module + "/services", module + "/tools"},
		why:  "services and tools read the topology; the arrow never points back",
	},
	{
		name: "services do not import tools",
		in:   []string{"services"},
		deny: []string{module + "/tools"},
		why:  "services are deployed and tools are not",
	},
	{
		name: "libraries use the OpenTelemetry API",
		in:   []string{"shared", "streams"},
		deny: []string{"go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters"},
		why:  "which SDK runs and where spans go is chosen by the process, not by a library inside it",

		productionOnly: true,
	},
	{
		name: "the test server stays in tests",
		in:   []string{"shared", "streams", "services"},
		deny: []string{module + "/shared/natstest"},
		why:  "natstest links package testing; what runs in production connects with shared/broker",

		productionOnly: true,
	},
}

func TestImports(t *testing.T) {
	t.Parallel()
	all := sources(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, s := range all {
				if !slices.ContainsFunc(r.in, func(dir string) bool { return below(s.path, dir) }) {
					continue
				}
				if r.productionOnly && s.test() {
					continue
				}
				for _, imp := range s.imports {
					if slices.ContainsFunc(r.deny, func(p string) bool { return below(imp, p) }) {
						t.Errorf("%s imports %s: %s", s.path, imp, r.why)
					}
				}
			}
		})
	}
}

// A service may import the start-up they share and what is internal to all of
// them, nothing else below services/.
func TestServicesTalkByTasks(t *testing.T) {
	t.Parallel()
	common := []string{"service", "internal"}
	for _, s := range sources(t) {
		own, ok := serviceOf(s.path, "services/")
		if !ok || own == "cmd" { // a main links the service it starts
			continue
		}
		for _, imp := range s.imports {
			other, ok := serviceOf(imp, module+"/services/")
			if ok && other != own && !slices.Contains(common, other) {
				t.Errorf("%s imports %s: services talk by tasks, so that each can be deployed, scaled and stopped alone", s.path, imp)
			}
		}
	}
}

// What is linked counts here, however far away it is imported.
func TestNoBrokerInWhatConnects(t *testing.T) {
	t.Parallel()
	const server = "github.com/nats-io/nats-server/"
	for _, dir := range []struct{ name, packages string }{
		{"services", "./cmd/..."},
		{".", "./streams ./shared/audit ./shared/bodies ./shared/broker ./shared/client ./shared/deadletter ./shared/fleet ./shared/stored ./shared/worker"},
	} {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps"}, strings.Fields(dir.packages)...)...)
		cmd.Dir, cmd.Stderr = dir.name, t.Output()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("list what is linked in %s: %v", dir.name, err)
		}
		deps := strings.Fields(string(out))
		if !slices.Contains(deps, "github.com/nats-io/nats.go") {
			t.Errorf("%s in %s do not link even the client: this test looks in the wrong place", dir.packages, dir.name)
		}
		for _, dep := range deps {
			if strings.HasPrefix(dep, server) || dep == module+"/shared/broker/embed" {
				t.Errorf("%s in %s link %s: a service that connects carries no broker, its size, its start or its security holes; "+
					"what starts one imports shared/broker/embed", dir.packages, dir.name, dep)
			}
		}
	}
}

func TestMainsAreShort(t *testing.T) {
	t.Parallel()
	const limit = 40
	for _, s := range sources(t) {
		if below(s.path, "services/cmd") && s.pkg == "main" && !s.test() && s.lines >= limit {
			t.Errorf("%s has %d lines, want fewer than %d: a main says which service it starts; what services share is in services/service",
				s.path, s.lines, limit)
		}
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		want := "Package " + s.pkg + " "
		if s.pkg == "main" {
			want = "Command "
		}
		dir := path.Dir(s.path)
		documented[dir] = documented[dir] || strings.HasPrefix(s.doc, want)
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s has no comment that begins %q: a reader must learn there what the folder is for",
				dir, "Package … (Command … if it is a main)")
		}
	}
}

func TestSharedIsARoom(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if path.Dir(s.path) == "shared" {
			t.Errorf("%s: shared is a room, not a package; the file belongs to one of the packages in it", s.path)
		}
	}
}

// sources parses the imports and the package comment of every Go file of the
// workspace's modules, and fails if it finds suspiciously few.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, root := range []string{"shared", "streams", "services", "tools"} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				return skipped(p, d)
			}
			if filepath.Ext(p) != ".go" {
				return nil
			}
			s, err := parse(p)
			all = append(all, s)
			return err
		})
		if err != nil {
			t.Fatalf("reading the Go files below %s: %v", root, err)
		}
	}
	if len(all) < 2 {
		t.Fatalf("found %d Go files: this test must run at the root of the repository", len(all))
	}
	return all
}

// skipped leaves out what is not ours to rule: test data, and modules of their
// own such as tools/peers.
func skipped(p string, d fs.DirEntry) error {
	name := d.Name()
	if name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return filepath.SkipDir
	}
	if strings.ContainsRune(p, filepath.Separator) {
		if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
			return filepath.SkipDir
		}
	}
	return nil
}

func parse(p string) (source, error) {
	text, err := os.ReadFile(p)
	if err != nil {
		return source{}, err
	}
	f, err := parser.ParseFile(token.NewFileSet(), p, text, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return source{}, err
	}
	imports := make([]string, 0, len(f.Imports))
	for _, spec := range f.Imports {
		imports = append(imports, importPath(spec))
	}
	return source{
		path:    filepath.ToSlash(p),
		pkg:     f.Name.Name,
		doc:     f.Doc.Text(),
		lines:   bytes.Count(text, []byte("\n")),
		imports: imports,
	}, nil
}

// importPath trusts the parser: what it accepted can be unquoted.
func importPath(spec *ast.ImportSpec) string {
	p, _ := strconv.Unquote(spec.Path.Value)
	return p
}

// below reports whether p is prefix or lies under it.
func below(p, prefix string) bool {
	return p == prefix || strings.HasPrefix(p, prefix+"/")
}

// serviceOf returns the first element of p after prefix.
func serviceOf(p, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(p, prefix)
	if !ok {
		return "", false
	}
	name, _, _ := strings.Cut(rest, "/")
	return name, true
}
