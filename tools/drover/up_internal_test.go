package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// started is a `drover` that runs until it is told to end.
type started struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	err   bytes.Buffer
}

// begin starts the command as people do, without what the environment of the test
// says about brokers and services.
func begin(t *testing.T, args ...string) *started {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // or a line that never comes is waited for
	t.Cleanup(cancel)
	s := &started{cmd: exec.CommandContext(ctx, "drover", args...)} // testscript.Main has put it there
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DROVER_") && !strings.HasPrefix(v, "OTEL_") {
			s.cmd.Env = append(s.cmd.Env, v)
		}
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = &s.err
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.lines = bufio.NewScanner(out)
	return s
}

// line reads until one has text in it.
func (s *started) line(t *testing.T, text string) string {
	t.Helper()
	line, _ := s.upTo(t, text)
	return line
}

// upTo is line, with the lines before it.
func (s *started) upTo(t *testing.T, text string) (line, before string) {
	t.Helper()
	for s.lines.Scan() {
		if strings.Contains(s.lines.Text(), text) {
			return s.lines.Text(), before
		}
		before += s.lines.Text() + "\n"
	}
	t.Fatalf("no line has %q in it:\n%s%s", text, before, &s.err)
	return "", ""
}

// interrupt sends what ctrl-C does, and expects the end. It returns the last line.
func (s *started) interrupt(t *testing.T) string {
	t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	last := s.line(t, "drained; what is left is kept in ")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("%q = %v\n%s", s.cmd.Args, err, &s.err)
	}
	return last
}

// documented compares the keys of a line of JSON with a row of the page.
func documented(t *testing.T, row, line string) {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	for key := range strings.FieldsSeq(tableOf(t, "| verb | keys |")[row]) {
		name := strings.Trim(key, "*")
		if _, ok := got[name]; !ok && name == key {
			t.Errorf("%s, %s: %s is not in %s", commandsPage, row, key, line)
		}
		delete(got, name)
	}
	for key := range got {
		t.Errorf("%s, %s: %s is missing, it is in %s", commandsPage, row, key, line)
	}
}

func TestUp(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	up := begin(t, "up", "--json", "--port=0", "--state="+state, "--scale=email=2", "--every=100ms")
	var ready struct {
		Broker, Admin, SMTP, Webhooks string
		TookMS                        int `json:"took_ms"`
		Processes                     []struct {
			Name  string
			PID   int
			Ready bool
		}
	}
	line := up.line(t, `"event":"ready"`)
	documented(t, "`up`: `ready`, `not ready`", line)
	if err := json.Unmarshal([]byte(line), &ready); err != nil {
		t.Fatal(err)
	}
	t.Logf("ready in %d ms", ready.TookMS)
	if ready.Admin == "" || ready.SMTP == "" || ready.Webhooks == "" || len(ready.Processes) != 4 {
		t.Errorf("ready says %+v, want addresses and four processes", ready)
	}
	for _, p := range ready.Processes {
		if p.Name == "email-2" {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	documented(t, "`up`: `log`, `ended`", up.line(t, `"event":"ended","process":"email-2"`))
	for _, args := range [][]string{
		{"email.send", "to=ada@example.org", "subject=Hello", "text=Hi"},
		{"webhook.deliver", "url=" + ready.Webhooks + "/status/410", "payload.id=8"},
	} {
		var out, errs bytes.Buffer
		args = append([]string{"enqueue", "--nats", ready.Broker}, args...)
		if code := execute(t.Context(), args, nil, &out, &errs); code != exitOK {
			t.Fatalf("%q = %d: %s", args, code, &errs)
		}
	}
	documented(t, "`up`: `state`", up.line(t, `"class":"default","service":"email","depth":0,"in_flight":0,"timers":0,"dead":0},`+
		`{"class":"default","service":"webhook","depth":0,"in_flight":0,"timers":0,"dead":1}`))
	documented(t, "`up`: `fleet`", up.interrupt(t))

	up = begin(t, "up", "--port=0", "--state="+state, "--no-dev", "--scale=email=0", "--scale=webhook=0", "--scale=deadletter=0", "--every=100ms")
	up.line(t, "ready in ")
	up.line(t, "a mail ")
	up.line(t, "0 of 0 processes ready · depth 0 · in flight 0 · retry 0 · dead 1")
	up.interrupt(t)
}

// A service that this command does not contain is left to its owner, who is told
// once what to start; with none of it wanted, nobody is.
func TestUpWithAServiceOfSomebodyElse(t *testing.T) {
	t.Parallel()
	fleet := filepath.Join(t.TempDir(), "fleet.yaml")
	const text = `{classes: [{name: default, ack_wait: 30s, time_limit: 60s, attempts: 2, max_deliver: 3, wait_objective: 5s, slots: 8, max_bytes: 1MiB}],
services: [{name: image, classes: [default]}], dead: {max_bytes: 1MiB}, bodies: {max_bytes: 1MiB}}`
	if err := os.WriteFile(fleet, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	up := begin(t, "up", "--port=0", "--state="+t.TempDir(), "--no-dev", "--fleet="+fleet, "--every=100ms")
	told := up.line(t, "image")
	if want := "image is not part of this command: its owner starts it, such as with ./image --nats nats://127.0.0.1:"; !strings.Contains(told, want) || !strings.HasSuffix(told, " --fleet "+fleet) {
		t.Errorf("up says %q, want %q and the fleet file", told, want)
	}
	ready, before := up.upTo(t, "ready in ")
	_, advice := up.upTo(t, "with nats")
	_, after := up.upTo(t, " 1 of 1 process ready · ")
	if !strings.Contains(ready, ", 1 process, ") || strings.Contains(before+after, "image") || strings.Contains(advice, "email") {
		t.Errorf("up says\n%s%s\n%s%swant one process, no more of image, and no mail to a fleet without email", before, ready, advice, after)
	}
	up.interrupt(t)

	up = begin(t, "up", "--json", "--port=0", "--state="+t.TempDir(), "--no-dev", "--fleet="+fleet)
	documented(t, "`up`: `fleet`", up.line(t, `"text":"image is not part of this command`))
	up.interrupt(t)

	up = begin(t, "up", "--port=0", "--state="+t.TempDir(), "--no-dev", "--fleet="+fleet, "--scale=image=0")
	if _, before := up.upTo(t, "ready in "); strings.Contains(before, "image") {
		t.Errorf("up --scale=image=0 says\n%swant nothing of image", before)
	}
	up.interrupt(t)
}

// A service whose variables are not set says so once; the others work, and the end
// says it again.
func TestUpWithAServiceThatIsNotConfigured(t *testing.T) {
	t.Parallel()
	up := begin(t, "up", "--port=0", "--state="+t.TempDir(), "--no-dev", "--scale=webhook=0", "--every=100ms")
	const why = "email: wrong usage: configure email: smtp server is not set: set DROVER_SMTP_ADDR to HOST:PORT"
	up.line(t, "  email-1  is not started again: wrong flags or environment (exit code 78): "+why)
	next, before := up.upTo(t, "not all is ready: broker nats://")
	if !strings.Contains(next, ", 1 of 2 processes, ") || strings.Contains(before, why) {
		t.Errorf("up goes on with\n%s%s\nwant one of two processes, and the reason once", before, next)
	}
	up.line(t, " 1 of 2 processes ready · email-1: not started again: wrong flags or environment · depth 0 ")
	if err := up.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	up.line(t, "drained; what is left is kept in ")
	err := up.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitFailed {
		t.Errorf("up = %v, want exit code %d", err, exitFailed)
	}
	if want := "drover: email-1 is not started again: wrong flags or environment: " + why + "\n"; up.err.String() != want {
		t.Errorf("up says %q at its end, want %q", &up.err, want)
	}
}

func TestUpIsRefused(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	up := begin(t, "up", "--port=0", "--state="+state, "--no-dev", "--scale=email=0", "--scale=webhook=0", "--scale=deadletter=0")
	up.line(t, "ready in ")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"up", "--port=0", "--state", state, "--no-dev"}, "state folder is in use: another `drover up` (process "},
		{[]string{"up", "--scale=emial=2"}, "--scale emial: the built-in fleet.yaml has email ("},
		{[]string{"up", "--port=70000"}, "--port 70000: want 1 to 65535"},
	} {
		var out, errs bytes.Buffer
		if code := execute(t.Context(), test.args, nil, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), test.want) {
			t.Errorf("%q = %d: %s, want %d: %s", test.args, code, &errs, exitUsage, test.want)
		}
	}
	up.interrupt(t)
}

func TestRun(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"run", "email", "--help"}, exitOK, "Usage: drover run email [flags]"},
		{[]string{"run", "email", "--help"}, exitOK, "--smtp-addr"},
		{[]string{"run", "webhook", "--class=slow", "--webhook-secrets="}, exitConfig, "lets webhook serve urgent, default, bulk"},
		{[]string{"run", "fax"}, exitUsage, "run fax: this command contains no such service, only deadletter, email, webhook: start any other from its own binary"},
		{[]string{"run", "webhook", "--nats=nats://127.0.0.1:1", "--nats-wait=1ms", "--admin="}, exitUnreachable, "no broker at nats://127.0.0.1:1"},
		{[]string{"run"}, exitUsage, "drover run --help"},
		{[]string{"run", "--help"}, exitOK, "drover run email --pool retry"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		var out bytes.Buffer
		code := execute(ctx, test.args, nil, &out, &out)
		cancel()
		if code != test.code || !strings.Contains(out.String(), test.want) {
			t.Errorf("%q = %d: %s, want %d and %q", test.args, code, &out, test.code, test.want)
		}
	}
}
