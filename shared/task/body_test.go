package task_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/droverhq/drover/shared/task"
)

type resize struct {
	Key   string    `msgpack:"key"`
	Width int       `msgpack:"width"`
	At    time.Time `msgpack:"at,omitempty"`
}

type asIs []byte

func (b asIs) RawBody() []byte { return b }

func TestMarshal(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		v    any
		want []byte // nil: ErrBadBody
	}{
		{"nil", nil, raw(t, "80")},
		{"nil map", map[string]any(nil), raw(t, "80")},
		{"nil pointer", (*resize)(nil), raw(t, "80")},
		{"no fields", struct{}{}, raw(t, "80")},
		{"struct", resize{Key: "a", Width: 320}, raw(t, "82 a3 6b6579 a1 61 a5 7769647468 cd 0140")},
		{"pointer", &resize{Key: "a", Width: 1}, raw(t, "82 a3 6b6579 a1 61 a5 7769647468 01")},
		{"raw", asIs{0x81, 0xa1, 'a', 0xd1, 0, 1}, raw(t, "81 a1 61 d1 0001")},
		{"raw empty", asIs{}, []byte{}},
		{"raw bomb", asIs{0xdf, 0xff, 0xff, 0xff, 0xff}, nil},
		{"raw array", asIs{0x90}, nil},
		{"number", 42, nil},
		{"string", "a", nil},
		{"slice", []int{1}, nil},
		{"number keys", map[int]string{1: "a"}, nil},
		{"too deep", nested(33), nil},
		{"too large", map[string]any{"a": make([]byte, 16<<20)}, nil},
	} {
		got, err := task.Marshal(tc.v)
		if (tc.want == nil) != errors.Is(err, task.ErrBadBody) || !bytes.Equal(got, tc.want) {
			t.Errorf("%s: Marshal = %x, %v, want %x", tc.name, got, err, tc.want)
		}
	}
	if _, err := task.Marshal(map[string]any{"a": make(chan int)}); err == nil {
		t.Error("Marshal of a channel = nil, want an error")
	}
}

func nested(levels int) map[string]any {
	m := map[string]any{}
	for range levels - 1 {
		m = map[string]any{"a": m}
	}
	return m
}

func TestUnmarshal(t *testing.T) {
	t.Parallel()
	at := time.Unix(1700000000, 5).UTC()
	body := raw(t, "84 a3 6b6579 a1 61 a5 6f74686572 92 c0 80 a5 7769647468 cd 0140 a2 6174 d7 ff 00000014 6553f100")
	var got resize
	if err := task.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	for i := range body {
		body[i] = 0xff // the caller's to reuse
	}
	got.At = got.At.UTC()
	if diff := cmp.Diff(resize{Key: "a", Width: 320, At: at}, got); diff != "" {
		t.Errorf("Unmarshal (-want +got):\n%s", diff)
	}
	for _, empty := range [][]byte{nil, {}, {0x80}} {
		var m map[string]any
		if err := task.Unmarshal(empty, &m); err != nil || m == nil || len(m) != 0 {
			t.Errorf("Unmarshal(%x) = %v, %v, want an empty map", empty, m, err)
		}
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		body []byte
		v    any
		want string
	}{
		{"bomb", raw(t, "df ffffffff"), new(any), "byte 0: 0xdf of 4294967295 items"},
		{"other type", raw(t, "81 a3 6b6579 90"), new(resize), `decode into *task_test.resize: field "key" holds an array: msgpack`},
		{"other type of the second", raw(t, "82 a3 6b6579 a1 61 a5 7769647468 a1 62"), new(resize), `field "width" holds a string: msgpack`},
		{"other type within", raw(t, "81 a1 6d 81 a1 61 c3"), new(struct {
			M map[string]string `msgpack:"m"`
		}), `field "m" holds a map: msgpack`},
		{"panic", raw(t, "81 a1 53 a1 61"), new(struct{ S fmt.Stringer }), "panic: reflect.Set"},
		{"nil time", raw(t, "81 a2 6174 c0"), new(resize), "nil for a field of a type that has none"},
		{"not a map", raw(t, "80"), new([]int), "decode into *[]int"},
	} {
		err := task.Unmarshal(tc.body, tc.v)
		if !errors.Is(err, task.ErrBadBody) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Unmarshal = %v, want ErrBadBody with %q", tc.name, err, tc.want)
		}
	}
	for _, v := range []any{nil, resize{}, (*resize)(nil)} {
		if err := task.Unmarshal(nil, v); err == nil || errors.Is(err, task.ErrBadBody) {
			t.Errorf("Unmarshal into %T = %v, want an error that does not blame the body", v, err)
		}
	}
}

// timesForMaps are bodies with honest timestamps in fields where [fragile] has a
// map or a list. msgpack v5.4.1 reads what follows a timestamp's header as a map:
// of 4 Gi entries, or a nil one before an array of 4 Gi.
func timesForMaps(tb testing.TB) [][]byte {
	tb.Helper()
	return [][]byte{
		raw(tb, "81 a1 6d d6 ff dfffffff"),
		raw(tb, "81 a1 6d d7 ff dfffffff ffffffff"),
		raw(tb, "81 a1 75 d7 ff dfffffff ffffffff"),
		raw(tb, "81 a1 76 c7 0c ff df000fff ff ffffffffffffff"),
		raw(tb, "81 a1 6d c7 0c ff c0 a1 6c dd ffffffff 00000000"),
		raw(tb, "81 a1 6e 81 a1 6d d7 ff de ffff 0000000000"),
	}
}

// Not parallel: it measures what the whole process allocates.
func TestUnmarshalTimeForMap(t *testing.T) {
	for _, body := range timesForMaps(t) {
		if err := task.Check(body, task.Limits{}); err != nil {
			t.Errorf("Check(%x) = %v, want nil", body, err)
		}
		var err error
		got := allocated(func() { err = task.Unmarshal(body, new(fragile)) })
		if !errors.Is(err, task.ErrBadBody) || !strings.Contains(err.Error(), "a timestamp where a map is wanted") {
			t.Errorf("Unmarshal(%x) = %v, want ErrBadBody for a timestamp", body, err)
		}
		if got > 64<<10 {
			t.Errorf("Unmarshal(%x) allocates %d bytes", body, got)
		}
	}
}

type keeper struct{ raw []byte }

func (k *keeper) UnmarshalMsgpack(b []byte) error {
	k.raw = b
	if len(b) > 0 && b[len(b)-1] == 0xc3 {
		return errors.New("no")
	}
	return nil
}

func TestUnmarshalKeepsNothing(t *testing.T) {
	t.Parallel()
	secret := raw(t, "81 a1 4b d9 14", []byte("secret of task one.."))
	var first struct{ K keeper }
	if err := task.Unmarshal(secret, &first); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(first.K.raw)
	for range 100 { // one of them gets the same decoder
		var next struct {
			K keeper
			M msgpack.RawMessage
		}
		err := task.Unmarshal(raw(t, "82 a1 4d 92 01 02 a1 4b c3"), &next)
		if err == nil || bytes.Contains(next.M, []byte("secret")) || len(next.M) != 3 {
			t.Fatalf("Unmarshal = %x, %v, want 920102 and an error", next.M, err)
		}
		if err := task.Unmarshal(raw(t, "81 a1 4b 01"), &next); err != nil || !bytes.Equal(next.K.raw, []byte{1}) {
			t.Fatalf("Unmarshal = %x, %v, want 01", next.K.raw, err)
		}
	}
	if !bytes.Equal(first.K.raw, want) {
		t.Errorf("the first task's bytes became %x", first.K.raw)
	}
}

// A bubble fails the test when a goroutine outlives it, or when what was made
// inside is used outside.
func TestBodyInBubble(t *testing.T) {
	t.Parallel()
	roundTrip := func(t *testing.T) {
		body, err := task.Marshal(map[string]any{"a": strings.Repeat("a", task.CompressAbove), "at": time.Unix(1, 0)})
		if err != nil {
			t.Fatal(err)
		}
		small, ok := task.Compress(body)
		if !ok {
			t.Fatal("Compress = false")
		}
		big, err := task.Decompress(small, 0)
		if err != nil || !bytes.Equal(big, body) {
			t.Fatalf("Decompress = %d bytes, %v, want %d", len(big), err, len(body))
		}
		if err := task.Unmarshal(big, new(struct{ A string })); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, roundTrip)
	roundTrip(t)
	synctest.Test(t, roundTrip)
}

func BenchmarkMarshal(b *testing.B) {
	v := resize{Key: "pictures/2026/a.png", Width: 320, At: time.Unix(1700000000, 5)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := task.Marshal(v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	body, err := task.Marshal(resize{Key: "pictures/2026/a.png", Width: 320, At: time.Unix(1700000000, 5)})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("struct", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v resize
			if err := task.Unmarshal(body, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("map 200 B", func(b *testing.B) {
		body := typicalBody(b)
		b.ReportAllocs()
		for b.Loop() {
			var v map[string]any
			if err := task.Unmarshal(body, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}
