package deadletter_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/droverhq/drover/shared/deadletter"
	"github.com/droverhq/drover/shared/task"
)

func document(tb testing.TB, body []byte) *deadletter.Document {
	tb.Helper()
	d, err := deadletter.NewDocument(body)
	if err != nil {
		tb.Fatalf("NewDocument(%x) = %v", body, err)
	}
	return d
}

func bodyOf(tb testing.TB, d *deadletter.Document) []byte {
	tb.Helper()
	b, err := d.Body()
	if err != nil {
		tb.Fatalf("Body = %v", err)
	}
	return b
}

func unhex(tb testing.TB, text string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// values are msgpack values as JSON shows them, each with bytes that no encoder of
// ours would choose where there is a choice.
var values = []struct{ name, msgpack, json string }{
	{"nil", "c0", `null`},
	{"true", "c3", `true`},
	{"a wide integer", "d3 0000000000000001", `1`},
	{"the largest integer", "cf ffffffffffffffff", `18446744073709551615`},
	{"the smallest integer", "d3 8000000000000000", `-9223372036854775808`},
	{"more digits than a double has", "cf 0020000000000001", `9007199254740993`},
	{"a float", "cb 3ff8000000000000", `1.5`},
	{"a float that is whole", "cb 4000000000000000", `2.0`},
	{"a large float", "cb 7e37e43c8800759c", `1e+300`},
	{"a float of 32 bits", "ca 3dcccccd", `0.1`},
	{"minus zero", "cb 8000000000000000", `-0.0`},
	{"not a number", "cb 7ff8000000000000", `{"$msgpack": "y3/4AAAAAAAA"}`},
	{"a wide string", "db 00000002 c3bc", `"ü"`},
	{"a string of HTML", "a3 3c6126", `"<a&"`},
	{"a string that is no text", "a2 c328", `{"$msgpack": "osMo"}`},
	{"bytes", "c5 0002 0102", `{"$bin": "AQI="}`},
	{"no bytes", "c4 00", `{"$bin": ""}`},
	{"a time of 4 bytes", "d6 ff 69f8 6f20", `{"$time": "2026-05-04T10:04:16Z"}`},
	{"a time of 12 bytes", "c7 0c ff 00000001 0000000000000001", `{"$time": "1970-01-01T00:00:01.000000001Z"}`},
	{"a time before all", "c7 0c ff 00000000 8000000000000000", `{"$msgpack": "xwz/AAAAAIAAAAAAAAAA"}`},
	{"an empty list", "dc 0000", `[]`},
	{"an empty map", "de 0000", `{}`},
	{"a key twice", "82 a161 01 a161 02", `{"$msgpack": "gqFhAaFhAg=="}`},
	{"a map like bytes", "81 a4 2462696e 01", "{\"$map\": {\n    \"$bin\": 1\n  }}"},
	{"a map like a map", "81 a4 246d6170 80", "{\"$map\": {\n    \"$map\": {}\n  }}"},
	{"a map like two", "82 a4 2462696e 01 a161 02", "{\n    \"$bin\": 1,\n    \"a\": 2\n  }"},
}

// What is shown and written back is the same to the byte, alone and beside an edit.
func TestDocumentKeeps(t *testing.T) {
	t.Parallel()
	for _, tt := range values {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			value := unhex(t, tt.msgpack)
			in := append(unhex(t, "82 a176"), value...)
			in = append(in, unhex(t, "a178 d2 00000007")...) // x: 7, in 32 bits
			d := document(t, in)
			want := "{\n  \"v\": " + tt.json + ",\n  \"x\": 7\n}\n"
			if diff := cmp.Diff(want, string(d.JSON())); diff != "" {
				t.Fatalf("JSON (-want +got):\n%s", diff)
			}
			if err := d.Edit(d.JSON()); err != nil {
				t.Fatalf("Edit = %v", err)
			}
			if got := bodyOf(t, d); !bytes.Equal(got, in) {
				t.Errorf("Body = %x, want %x", got, in)
			}
			if err := d.Set("x", "8"); err != nil {
				t.Fatalf("Set = %v", err)
			}
			want2 := append(append(unhex(t, "82 a176"), value...), unhex(t, "a178 08")...)
			if got := bodyOf(t, d); !bytes.Equal(got, want2) {
				t.Errorf("Body after an edit = %x, want %x", got, want2)
			}
			// The same text without the old value still means the same.
			fresh := &deadletter.Document{}
			if err := fresh.Edit([]byte(want)); err != nil {
				t.Fatalf("Edit of nothing = %v", err)
			}
			if diff := cmp.Diff(want, string(document(t, bodyOf(t, fresh)).JSON())); diff != "" {
				t.Errorf("JSON of what the text alone says (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDocumentSet(t *testing.T) {
	t.Parallel()
	type in struct {
		To     []string  `msgpack:"to"`
		Text   string    `msgpack:"text"`
		N      int       `msgpack:"n"`
		F      float64   `msgpack:"f"`
		Share  []float32 `msgpack:"share"`
		Yes    bool      `msgpack:"yes"`
		Nil    *int      `msgpack:"nil"`
		Blob   []byte    `msgpack:"blob"`
		At     time.Time `msgpack:"at"`
		Nested map[string]any
	}
	start := body(t, in{
		To: []string{"a", "b"}, Text: "t", N: 1, F: 1.5, Share: []float32{0.5}, Yes: true, Blob: []byte{1}, At: died,
		Nested: map[string]any{"k": "v"},
	})
	tests := []struct{ name, key, text, json, want, err string }{
		{name: "a string", key: "text", text: "ada@example.org", want: `"text":"ada@example.org"`},
		{name: "a string of digits", key: "text", text: "17", want: `"text":"17"`},
		{name: "in a list", key: "to.1", text: "c", want: `"to":["a","c"]`},
		{name: "onto a list", key: "to.2", text: "c", want: `"to":["a","b","c"]`},
		{name: "beyond a list", key: "to.3", text: "c", err: `"3" is no place in a list of 2`},
		{name: "an integer", key: "n", text: "2", want: `"n":2`},
		{name: "no integer", key: "n", text: "2.5", err: `n: it is an integer, and "2.5" is none: replace it with n:=JSON`},
		{name: "an integer for a float", key: "f", text: "2", want: `"f":2.0`},
		{name: "a float of 32 bits", key: "share.1", json: "0.1", want: `"share":[0.5,0.1]`},
		{name: "a boolean", key: "yes", text: "false", want: `"yes":false`},
		{name: "no boolean", key: "yes", text: "no", err: "it is true or false"},
		{name: "in the place of null", key: "nil", text: "5", want: `"nil":5`},
		{name: "text in the place of null", key: "nil", text: "007", want: `"nil":"007"`},
		{name: "a new key", key: "new", text: "true", want: `"new":true`},
		{name: "a new key in a new object", key: "a.b", text: "x", want: `"a":{"b":"x"}`},
		{name: "nested", key: "Nested.k", text: "w", want: `"Nested":{"k":"w"}`},
		{name: "below a string", key: "text.x", text: "w", err: "what is above it is a string"},
		{name: "a list by text", key: "to", text: "c", err: "it is a list: replace it with to:=JSON"},
		{name: "a list by JSON", key: "to", json: `["c"]`, want: `"to":["c"]`},
		{name: "bytes by text", key: "blob", text: "c", err: "it is a value that JSON has not"},
		{name: "bytes by JSON", key: "blob", json: `{"$bin":"AgM="}`, want: `"blob":{"$bin":"AgM="}`},
		{name: "a time", key: "at", json: `{"$time":"2027-01-01T00:00:00+02:00"}`, want: `"at":{"$time":"2026-12-31T22:00:00Z"}`},
		{name: "no time", key: "at", json: `{"$time":"now"}`, err: `"now" is no time`},
		{name: "no base64", key: "at", json: `{"$bin":"?"}`, err: "illegal base64"},
		{name: "no string", key: "at", json: `{"$bin":1}`, err: "$bin holds a string"},
		{name: "msgpack", key: "at", json: `{"$msgpack":"wg=="}`, want: `"at":false`},
		{name: "two msgpack values", key: "at", json: `{"$msgpack":"wsI="}`, err: "1 bytes after the map"},
		{name: "a bomb", key: "at", json: `{"$msgpack":"3f////8="}`, err: "bad body"},
		{name: "a map beside something", key: "at", json: `{"$map":{},"x":1}`, err: "$map stands alone"},
		{name: "a key twice", key: "at", json: `{"x":1,"x":2}`, err: `the key "x" comes twice`},
		{name: "half JSON", key: "at", json: `{"x":`, err: "ends too early"},
		{name: "two values", key: "at", json: `1 2`, err: "something follows"},
		{name: "a long integer", key: "n", json: `99999999999999999999`, err: "more than 64 bits"},
		{name: "a large float", key: "share.0", json: `1e40`, err: "does not fit a float of 32 bits"},
		{name: "deep", key: "at", json: strings.Repeat("[", 100) + strings.Repeat("]", 100), err: "too many levels"},
		{name: "no key", key: "", text: "x", err: "a part of the key is empty"},
		{name: "no UTF-8", key: "text", text: "\xff", err: "not UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := document(t, start)
			var err error
			if tt.json != "" {
				err = d.SetJSON(tt.key, tt.json)
			} else {
				err = d.Set(tt.key, tt.text)
			}
			if tt.err != "" {
				wantError(t, "Set", err, deadletter.ErrEdit)
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Set = %v, want %q in it", err, tt.err)
				}
				if got := bodyOf(t, d); !bytes.Equal(got, start) {
					t.Errorf("Body after a refused edit = %x, want what it was", got)
				}
				return
			}
			if err != nil {
				t.Fatalf("Set = %v", err)
			}
			text, err := document(t, bodyOf(t, d)).MarshalJSON()
			if err != nil || !strings.Contains(string(text), tt.want) {
				t.Errorf("after Set: %s, %v, want %s in it", text, err, tt.want)
			}
			var back in
			if err := task.Unmarshal(bodyOf(t, d), &back); err != nil && !strings.Contains(tt.name, "msgpack") && !strings.Contains(tt.name, "null") {
				t.Errorf("the handler's type does not take it any more: %v", err)
			}
		})
	}
}

func TestDocumentRefuses(t *testing.T) {
	t.Parallel()
	_, err := deadletter.NewDocument([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	wantError(t, "NewDocument of a bomb", err, task.ErrBadBody)
	_, err = deadletter.NewDocument(unhex(t, "81 a2 c328 01"))
	wantError(t, "NewDocument of keys that are no text", err, task.ErrBadBody)
	d := document(t, nil)
	if got := string(d.JSON()); got != "{}\n" {
		t.Errorf("JSON of nothing = %q, want {}", got)
	}
	for _, text := range []string{`[]`, `1`, `{"$bin":"AQ=="}`, "\xff", ``} {
		wantError(t, "Edit("+text+")", d.Edit([]byte(text)), deadletter.ErrEdit)
	}
	if err := d.SetJSON("x", strings.Repeat("[", 40)+strings.Repeat("]", 40)); err != nil {
		t.Fatal(err)
	}
	_, err = d.Body()
	wantError(t, "Body of more levels than a body may have", err, task.ErrBadBody)
}

// FuzzDocument reads any body that passes the guard, and writes it back unchanged.
func FuzzDocument(f *testing.F) {
	for _, v := range values {
		f.Add(append(unhex(f, "81 a176"), unhex(f, v.msgpack)...))
	}
	f.Add([]byte{0x80})
	deep, err := msgpack.Marshal(map[string]any{"a": []any{map[string]any{"b": []any{math.Inf(1), float32(1), nil}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(deep)
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := deadletter.NewDocument(in)
		if err != nil {
			return
		}
		if err := d.Edit(d.JSON()); err != nil {
			t.Fatalf("Edit(%s) = %v", d.JSON(), err)
		}
		got, err := d.Body()
		if err != nil || !bytes.Equal(got, in) && len(in) > 0 {
			t.Errorf("%s is %x, %v, want %x", d.JSON(), got, err, in)
		}
		fresh := &deadletter.Document{}
		if err := fresh.Edit(d.JSON()); err != nil {
			t.Fatalf("Edit of nothing = %v", err)
		}
		again, err := fresh.Body()
		if err != nil {
			t.Fatalf("Body = %v (%s)", err, base64.StdEncoding.EncodeToString(in))
		}
		if diff := cmp.Diff(string(d.JSON()), string(document(t, again).JSON())); diff != "" {
			t.Errorf("the text alone (-want +got):\n%s", diff)
		}
	})
}
