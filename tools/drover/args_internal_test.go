package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/task"
)

func TestPairs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		words string // separated by a bar
		want  map[string]any
	}{
		{"nothing", "", map[string]any{}},
		{"text", "to=ada@example.org|empty=|url=https://a/?b=c", map[string]any{"to": "ada@example.org", "empty": "", "url": "https://a/?b=c"}},
		{"numbers", "a=1|b=-2|c=0.5|d=1e3|e=18446744073709551615", map[string]any{"a": int64(1), "b": int64(-2), "c": 0.5, "d": 1000.0, "e": uint64(1<<64 - 1)}},
		{"names that look like numbers", "a=007|b=+49|c=1.|d=.5|e=0x1|f=1_000|g=NaN|h=-", map[string]any{"a": "007", "b": "+49", "c": "1.", "d": ".5", "e": "0x1", "f": "1_000", "g": "NaN", "h": "-"}},
		{"words", "a=true|b=false|c=null|d=True", map[string]any{"a": true, "b": false, "c": nil, "d": "True"}},
		{"raw", `a:="1"|b:=[1,{"c":2}]|c:=null`, map[string]any{"a": "1", "b": []any{int64(1), map[string]any{"c": int64(2)}}, "c": nil}},
		{"nested", "a.b.c=1|a.b.d=2|a.e=3", map[string]any{"a": map[string]any{"b": map[string]any{"c": int64(1), "d": int64(2)}, "e": int64(3)}}},
		{"repeated", "a=1|a=x|a:=[2]|b.c=1|b.c=2", map[string]any{"a": []any{int64(1), "x", []any{int64(2)}}, "b": map[string]any{"c": []any{int64(1), int64(2)}}}},
		{"a list is one value", "a:=[1]|a=2", map[string]any{"a": []any{[]any{int64(1)}, int64(2)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := pairs(fields(c.words))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("pairs(%s) (-want +got):\n%s", c.words, diff)
			}
		})
	}
}

func TestPairsErrors(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"a":                      "want key=value",
		"=1":                     "want key=value",
		":=1":                    "want key=value",
		"a..b=1":                 "a part of the key is empty",
		".a=1":                   "a part of the key is empty",
		"a=1|a.b=1":              "a has a value already",
		"a:={}|a.b=1|a=2":        "a has keys already",
		"a.b=1|a=1":              "a has keys already",
		"a=1|a=2|a.b=1":          "a has a value already",
		"a:=":                    "there is nothing",
		"a:=1 2":                 "something follows",
		"a=99999999999999999999": "more than 64 bits",
		"a=1e999":                "value out of range",
	} {
		_, err := pairs(fields(words))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pairs(%s) = %v, want an error with %q", words, err, want)
		}
	}
}

func fields(words string) []string {
	if words == "" {
		return nil
	}
	return strings.Split(words, "|")
}

// Whatever JSON makes a body, a worker can decode it.
func FuzzBodyOf(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":[1.5,null,true,{"b":"c"}]}`, `[]`, `1`, ``, `{"a":1e400}`, `{"a":123456789012345678901}`, strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		body, err := bodyOf(text)
		if err != nil {
			return
		}
		if err := task.Check(body, task.Limits{}); err != nil {
			t.Errorf("bodyOf(%s) is a body that does not pass: %v", text, err)
		}
	})
}

func FuzzPairs(f *testing.F) {
	f.Add("a=1|b.c=x|b.c:=[1]")
	f.Add("a:={}|a.b=1")
	f.Fuzz(func(t *testing.T, words string) {
		args, err := pairs(strings.Split(words, "|"))
		if err != nil {
			return
		}
		if _, err := task.Marshal(args); err != nil && strings.Count(words, ".") < 30 && !strings.Contains(words, ":=") {
			t.Errorf("pairs(%q) cannot be encoded: %v", words, err)
		}
	})
}
