package task_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/shared/task"
)

var updateVectors = flag.Bool("update", false, "rewrite golden files")

type vector struct {
	Name string `json:"name"`
	Hex  string `json:"hex"`
	JSON any    `json:"json"`
}

func (v vector) body(tb testing.TB) []byte {
	tb.Helper()
	return raw(tb, v.Hex)
}

func readVectors(tb testing.TB, file string) []vector {
	tb.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	var out []vector
	if err := json.Unmarshal(b, &out); err != nil {
		tb.Fatal(err)
	}
	return out
}

// inJSON is v as docs/wire/gen.mjs writes it, and as encoding/json reads it.
func inJSON(v any) any {
	switch v := v.(type) {
	case nil, bool, string, float64:
		return v
	case float32:
		return float64(v)
	case []byte:
		return map[string]any{"$bin": hex.EncodeToString(v)}
	case time.Time:
		return map[string]any{"$time": v.UTC().Format(time.RFC3339Nano)}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = inJSON(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = inJSON(v[k])
		}
		return out
	}
	text := fmt.Sprint(v) // an integer
	var f float64
	if _, err := fmt.Sscan(text, &f); err != nil || math.Abs(f) >= 1<<53 {
		return map[string]any{"$int": text}
	}
	return f
}

func TestVectors(t *testing.T) {
	t.Parallel()
	vectors := readVectors(t, "../../docs/wire/vectors.json")
	if len(vectors) < 25 {
		t.Fatalf("%d vectors, want at least 25", len(vectors))
	}
	for _, v := range append(vectors, readVectors(t, "testdata/vectors.json")...) {
		body := v.body(t)
		if err := task.Check(body, task.Limits{}); err != nil {
			t.Errorf("%s: Check = %v", v.Name, err)
		}
		var got map[string]any
		if err := task.Unmarshal(body, &got); err != nil {
			t.Errorf("%s: Unmarshal = %v", v.Name, err)
		}
		if diff := cmp.Diff(v.JSON, inJSON(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", v.Name, diff)
		}
		if v.Name != "typed" {
			continue
		}
		type mail struct {
			To    string `msgpack:"to"`
			Width int    `msgpack:"width"`
		}
		var typed mail
		if err := task.Unmarshal(body, &typed); err != nil {
			t.Errorf("%s: Unmarshal = %v", v.Name, err)
		}
		if diff := cmp.Diff(mail{To: "ada@example.com", Width: 320}, typed); diff != "" {
			t.Errorf("%s (-want +got):\n%s", v.Name, diff)
		}
	}
}

// What Marshal writes is in testdata/vectors.json, and docs/wire/gen.mjs reads it
// with the other implementation. Times are in milliseconds, all that one has.
func TestVectorsOfMarshal(t *testing.T) {
	t.Parallel()
	var lines []string
	for _, tc := range []struct {
		name string
		v    map[string]any // of one key, so that the order is the same every time
	}{
		{"empty map", nil},
		{"nil", map[string]any{"v": nil}},
		{"booleans", map[string]any{"v": []any{true, false}}},
		{"integers", map[string]any{"v": []any{0, 127, 128, 255, 256, 65535, 65536, uint32(1<<32 - 1), int64(1 << 32), uint8(200), int64(1), uint64(1)}}},
		{"negative integers", map[string]any{"v": []any{-1, -32, -33, -128, -129, -32768, -32769, -1 << 31, int64(-1<<31 - 1), int8(-100)}}},
		{"largest and smallest", map[string]any{"v": []any{uint64(math.MaxUint64), int64(math.MinInt64)}}},
		{"floats", map[string]any{"v": []any{1.5, -0.1, 1e300, float32(0.5)}}},
		{"strings", map[string]any{"größe": []any{"", "a", strings.Repeat("x", 31), strings.Repeat("x", 32), strings.Repeat("x", 256), "naïve 日本語 🐂\x00\n"}}},
		{"bytes", map[string]any{"v": []any{[]byte{}, []byte{0, 255}, bytes.Repeat([]byte{7}, 256)}}},
		{"nested", map[string]any{"v": map[string]any{"a": []any{[]any{}, map[string]any{}, []any{1, 2}}}}},
		{"array16", map[string]any{"v": make([]any, 16)}},
		{"times", map[string]any{"v": []any{time.Unix(1700000000, 0), time.UnixMilli(1700000000123), time.UnixMilli(-1500)}}},
	} {
		body, err := task.Marshal(tc.v)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		line, err := json.Marshal(vector{tc.name, hex.EncodeToString(body), inJSON(tc.v)})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	got := "[\n" + strings.Join(lines, ",\n") + "\n]\n"
	const file = "testdata/vectors.json"
	if *updateVectors {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites):\n%s", file, diff)
	}
}
