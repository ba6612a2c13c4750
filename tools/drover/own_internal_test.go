package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	readme         = "../../README.md"
	servicesReadme = "../../services/README.md"
)

// fenced is a block of a page that is shown as it is in a file.
var fenced = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// part is what stands under one heading of a page.
func part(t *testing.T, page, heading string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no part %q", page, heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

// ownModule writes the module that services/README.md describes, beside a folder
// drover that is this repository, and returns its folder.
func ownModule(t *testing.T, section string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	above := t.TempDir()
	if err := os.Symlink(root, filepath.Join(above, "drover")); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(above, "image")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{"": "go.mod", "go": "main.go", "yaml": "fleet.yaml"}
	for _, m := range fenced.FindAllStringSubmatch(section, -1) {
		if err := os.WriteFile(filepath.Join(dir, names[m[1]]), []byte(m[2]), 0o600); err != nil {
			t.Fatal(err)
		}
		delete(names, m[1])
	}
	if len(names) > 0 {
		t.Fatalf("%s shows no block for %v", servicesReadme, names)
	}
	return dir
}

// shell runs commands of a page as people do, one after the other.
type shell struct {
	dir     string
	env     []string
	exports string // what was exported so far
}

func (s *shell) command(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", s.exports+"exec "+line)
	cmd.Dir, cmd.Env = s.dir, s.env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // and not its children alone
	return cmd
}

func (s *shell) run(t *testing.T, line string) {
	t.Helper()
	if strings.HasPrefix(line, "export ") {
		s.exports += line + "\n"
		return
	}
	if out, err := s.command(t.Context(), line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// says runs a command until what it says matches, for 20 s at most: a process is in
// the lists a moment after it works.
func (s *shell) says(t *testing.T, line, want string) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(20 * time.Second); ; <-tick.C {
		out, err := s.command(t.Context(), line).CombinedOutput()
		if regexp.MustCompile(want).Match(out) {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%s: %v, it says\n%swant %s", line, err, out, want)
		}
	}
}

// start runs a command that goes on until it is interrupted. Its lines are those of
// its standard output, or of its standard error.
func (s *shell) start(t *testing.T, line string, errs bool) *started {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // or a line that never comes is waited for
	t.Cleanup(cancel)
	p := &started{cmd: s.command(ctx, line)}
	pipe := p.cmd.StdoutPipe
	if errs {
		pipe = p.cmd.StderrPipe
	} else {
		p.cmd.Stderr = &p.err
	}
	out, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	return p
}

// A service of a module outside of this repository, as services/README.md builds
// and runs it: each of its commands, in their order.
func TestServiceOfAnotherRepository(t *testing.T) {
	t.Parallel()
	section := part(t, servicesReadme, "In a repository of your own")
	sh := &shell{dir: ownModule(t, section)}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DROVER_") && !strings.HasPrefix(v, "OTEL_") {
			sh.env = append(sh.env, v)
		}
	}
	// The module cache has all that this repository needs, and so all that the module does.
	sh.env = append(sh.env, "GOWORK=off", "GOPROXY=off", "GOSUMDB=off")
	var up, image *started
	want := map[string]string{
		"drover ps":     `(?m)^image .* 0/10 .* ready `,
		"drover lanes":  `(?m)^default +image +live +0 `,
		"drover doctor": `(?m)^nothing is wrong with this fleet$`,
	}
	for line := range strings.Lines(section) {
		line, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		if !ok {
			continue
		}
		line, _, _ = strings.Cut(line, "#")
		switch line = strings.TrimSpace(line); line {
		case "drover up": // elsewhere than people have their own
			up = sh.start(t, line+" --port 0 --state "+t.TempDir(), false)
			_, flags, _ := strings.Cut(up.line(t, "image is not part of this command: its owner starts it, such as with ./image --nats nats://"), "--nats ")
			sh.env = append(sh.env, "DROVER_NATS_URL="+strings.Fields(flags)[0])
			up.line(t, "ready in ")
		case "./image &":
			image = sh.start(t, "./image", true)
			image.line(t, "service starts")
		default:
			if text, ok := want[line]; ok {
				delete(want, line)
				sh.says(t, line, text)
				continue
			}
			sh.run(t, line)
			if strings.HasPrefix(line, "drover enqueue ") {
				image.line(t, "key=a.png")
			}
		}
	}
	if up == nil || image == nil || len(want) > 0 {
		t.Fatalf("%s no longer runs `drover up` and ./image, nor %v", servicesReadme, want)
	}
	if err := image.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for image.lines.Scan() { // to its end
	}
	if err := image.cmd.Wait(); err != nil {
		t.Errorf("./image = %v", err)
	}
	up.interrupt(t)
}

// README shows the service that the other page builds and runs.
func TestReadmeShowsThatService(t *testing.T) {
	t.Parallel()
	shown := fenced.FindStringSubmatch(part(t, readme, "Write a service"))
	for _, m := range fenced.FindAllStringSubmatch(part(t, servicesReadme, "In a repository of your own"), -1) {
		if m[1] == "go" && shown != nil && strings.HasSuffix(m[2], "\n"+shown[2]) {
			return
		}
	}
	t.Errorf("%s does not end as README begins to write a service:\n%v", servicesReadme, shown)
}
