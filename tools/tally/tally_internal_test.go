package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestCount(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		in   []string
		want Counts
		show string // must be in the output
		hide string // must not be, if not empty
	}{
		{
			name: "subtests count",
			in: []string{
				`{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}`,
				`{"Action":"pass","Package":"p","Test":"TestA/one"}`,
				`{"Action":"pass","Package":"p","Test":"TestA"}`,
				`{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}`,
				`{"Action":"pass","Package":"p"}`,
			},
			want: Counts{Passed: 2},
			show: "ok  \tp\t0.1s\n",
			hide: "noise",
		},
		{
			name: "a failure shows its output",
			in: []string{
				`{"Action":"output","Package":"p","Test":"TestA","Output":"got 1, want 2\n"}`,
				`{"Action":"fail","Package":"p","Test":"TestA"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want: Counts{Failed: 1},
			show: "got 1, want 2\n",
		},
		{
			name: "a package that fails without a test",
			in: []string{
				`{"Action":"pass","Package":"p","Test":"TestA"}`,
				`{"Action":"output","Package":"p","Output":"signal: killed\n"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want: Counts{Passed: 1, Failed: 1},
			show: "signal: killed\n",
		},
		{
			name: "a package that does not build",
			in: []string{
				`{"Action":"build-output","ImportPath":"p","Output":"undefined: x\n"}`,
				`{"Action":"build-fail","ImportPath":"p"}`,
				`{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			},
			want: Counts{Failed: 1},
			show: "undefined: x\n",
		},
		{
			name: "a skip is a failure",
			in: []string{
				`{"Action":"output","Package":"p","Test":"TestA","Output":"no server\n"}`,
				`{"Action":"skip","Package":"p","Test":"TestA"}`,
			},
			want: Counts{Failed: 1},
			show: "no server\n",
		},
		{
			name: "a package without tests is neither",
			in: []string{
				`{"Action":"skip","Package":"q"}`,
				`{"Action":"pass","Package":"p","Test":"TestA"}`,
			},
			want: Counts{Passed: 1},
		},
		{
			name: "nothing is a failure",
			in:   []string{"warning: no packages"},
			want: Counts{Failed: 1},
			show: "warning: no packages",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			got, err := count(strings.NewReader(strings.Join(tt.in, "\n")), &out)
			if err != nil || got != tt.want {
				t.Errorf("count() = %v, %v, want %v", got, err, tt.want)
			}
			if !strings.Contains(out.String(), tt.show) {
				t.Errorf("count() prints %q, want %q in it", out.String(), tt.show)
			}
			if tt.hide != "" && strings.Contains(out.String(), tt.hide) {
				t.Errorf("count() prints %q, want no %q in it", out.String(), tt.hide)
			}
		})
	}
}

func TestRunSumsItsSteps(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "counts.txt")
	pass := `{"Action":"pass","Package":"p","Test":"TestA"}`
	fail := `{"Action":"fail","Package":"p","Test":"TestB"}`
	var out strings.Builder
	for _, step := range []struct {
		in   string
		want bool
	}{{pass, true}, {pass + "\n" + fail, false}} {
		if ok, err := run(strings.NewReader(step.in), &out, file, ""); ok != step.want || err != nil {
			t.Errorf("run(%s) = %v, %v, want %v", step.in, ok, err, step.want)
		}
	}
	out.Reset()
	if ok, err := run(nil, &out, "", file); !ok || err != nil {
		t.Errorf("run(sum) = %v, %v, want true", ok, err)
	}
	if got, want := out.String(), "2 passed, 1 failed\n"; got != want {
		t.Errorf("run(sum) prints %q, want %q", got, want)
	}
}
