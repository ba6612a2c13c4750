package task_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
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
		{"other type", raw(t, "81 a3 6b6579 90"), new(resize), "decode into *task_test.resize"},
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

func TestCompress(t *testing.T) {
	t.Parallel()
	noise := random(t, 64<<10)
	for _, tc := range []struct {
		name string
		body []byte
		want bool
	}{
		{"4 KiB", make([]byte, 4<<10), false},
		{"4 KiB and 1", make([]byte, 4<<10+1), true},
		{"noise", noise, false},
		{"noise with little to save", append(make([]byte, 4<<10), noise...), false},
		{"noise with much to save", append(make([]byte, 16<<10), noise...), true},
		{"16 MiB", bytes.Repeat([]byte("drover"), 16<<20/6), true},
		{"hex", hex.AppendEncode(nil, noise[:4<<10]), true},
		{"hex of 700 KiB", hex.AppendEncode(nil, random(t, 350<<10)), true},
		{"base64", base64.StdEncoding.AppendEncode(nil, noise[:4<<10]), true},
		{"base64 of 700 KiB", base64.StdEncoding.AppendEncode(nil, random(t, 525<<10)), true},
		{"noise of 1 MiB", random(t, 1<<20), false},
	} {
		out, ok := task.Compress(tc.body)
		if ok != tc.want {
			t.Errorf("%s: Compress = %d bytes of %d, %t, want %t", tc.name, len(out), len(tc.body), ok, tc.want)
		}
		if ok {
			var err error
			if out, err = task.Decompress(out, 0); err != nil {
				t.Errorf("%s: Decompress = %v", tc.name, err)
			}
		}
		if !bytes.Equal(out, tc.body) {
			t.Errorf("%s: the body comes back changed", tc.name)
		}
	}
}

func random(tb testing.TB, n int) []byte {
	tb.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		tb.Fatal(err)
	}
	return b
}

// frame is a zstd frame that declares to hold size bytes, or nothing about it
// when size is negative, without checksum.
func frame(size int, blocks ...[]byte) []byte {
	out := []byte{0x28, 0xb5, 0x2f, 0xfd}
	if size < 0 {
		out = append(out, 0x00, 0x70) // window of 16 MiB
	} else {
		out = append(out, 0xe0)
		out = binary.LittleEndian.AppendUint64(out, uint64(size))
	}
	return append(out, bytes.Join(blocks, nil)...)
}

func block(kind, size, last int, data ...byte) []byte {
	h := size<<3 | kind<<1 | last
	return append([]byte{byte(h), byte(h >> 8), byte(h >> 16)}, data...)
}

// zeros is a compressed block of size zeros, cut out of what an encoder made.
func zeros(tb testing.TB, size int) []byte {
	tb.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	if err != nil {
		tb.Fatal(err)
	}
	out := enc.EncodeAll(append(make([]byte, size-4), "a\x00b\x00"...), nil)
	var h zstd.Header
	if err := h.Decode(out); err != nil {
		tb.Fatal(err)
	}
	out[h.HeaderSize] &^= 1 // not the last
	return out[h.HeaderSize:]
}

// Not parallel: it measures what the whole process allocates.
func TestDecompressBombs(t *testing.T) {
	const mib = 1 << 20
	var gib bytes.Buffer // a stream of 1 GiB of zeros that does not declare its size
	enc, err := zstd.NewWriter(&gib, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, mib)
	for range 1024 {
		if _, err := enc.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	rle := bytes.Repeat(block(1, 128<<10, 0, 'a'), 8192)
	last := block(1, 128<<10, 1, 'a')
	z := zeros(t, 127<<10) // blocks that only decoding can measure, then one that is appended as it is
	for _, tc := range []struct {
		name  string
		body  []byte
		limit int
		want  string
		bytes uint64 // allocated at most
	}{
		{"stream of 1 GiB", gib.Bytes(), 0, "more than the limit of 16777216 bytes", 17 * mib},
		{"stream of 1 GiB, other limit", gib.Bytes(), mib, "more than the limit of 1048576 bytes", 3 * mib},
		{"1 GiB declared", frame(1<<30, rle, last), 0, "more than the limit", mib / 8},
		{"1 GiB in runs", frame(-1, rle, last), 0, "more than the limit", mib / 8},
		{"1 GiB in runs, 16 MiB declared", frame(16*mib, rle, last), 0, "more than the limit", mib / 8},
		{"1 GiB in runs, 1 byte declared", frame(1, rle, last), 0, "more than the limit", mib / 8},
		{"mixed blocks", frame(-1, bytes.Repeat(z, 128), z, last), 0, "more than the limit", 17 * mib},
		{"mixed blocks, other limit", frame(-1, bytes.Repeat(z, 9), last), mib, "more than the limit", 3 * mib},
		{"mixed blocks, 1 MiB declared", frame(mib, bytes.Repeat(z, 8), z, last), 0, "frame", 5 * mib / 4},
		{"no blocks", frame(-1), 0, "the frame ends inside a block header", mib / 8},
		{"16 EiB declared", append(frame(0)[:5:5], bytes.Repeat([]byte{0xff}, 9)...), 0, "more than the limit", mib / 8},
		{"16 MiB declared, 2 bytes there", frame(16*mib, block(0, 2, 1, 1, 2)), 0, "its blocks hold 2 at most", mib / 8},
	} {
		started := time.Now()
		var err error
		got := allocated(func() { _, err = task.Decompress(tc.body, tc.limit) })
		if !errors.Is(err, task.ErrBadBody) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Decompress = %v, want ErrBadBody with %q", tc.name, err, tc.want)
		}
		t.Logf("%s: %d bytes refused after %v and %d KiB", tc.name, len(tc.body), time.Since(started), got>>10)
		if got > tc.bytes {
			t.Errorf("%s: Decompress allocates %d bytes, want at most %d", tc.name, got, tc.bytes)
		}
	}
}

func TestDecompressRefuses(t *testing.T) {
	t.Parallel()
	good, ok := task.Compress(make([]byte, 300<<10))
	if !ok {
		t.Fatal("Compress = false")
	}
	for n := range good {
		if _, err := task.Decompress(good[:n], 0); !errors.Is(err, task.ErrBadBody) {
			t.Errorf("Decompress(first %d of %d bytes) = %v, want ErrBadBody", n, len(good), err)
		}
	}
	for n := 1; n < 9; n++ {
		if _, err := task.Decompress(append(bytes.Clone(good), make([]byte, n)...), 0); !errors.Is(err, task.ErrBadBody) {
			t.Errorf("Decompress with %d bytes after = %v, want ErrBadBody", n, err)
		}
	}
	wrong := bytes.Clone(good)
	wrong[len(wrong)-1] ^= 1
	for _, tc := range []struct {
		name  string
		body  []byte
		limit int
		want  string
	}{
		{"not zstd", []byte("hello hello"), 0, "frame header: invalid input: magic number mismatch"},
		{"two frames", append(bytes.Clone(good), good...), 0, "the frame ends here"},
		{"skippable before", append(raw(t, "50 2a 4d 18 00000000"), good...), 0, "a skippable frame"},
		{"skippable after", append(bytes.Clone(good), raw(t, "50 2a 4d 18 00000000")...), 0, "the frame ends here"},
		{"one over the limit", good, 300<<10 - 1, "more than the limit of 307199 bytes"},
		{"checksum", wrong, 0, "crc"},
		{"reserved block", frame(2, block(3, 2, 1, 1, 2)), 0, "block"},
		{"window of 128 MiB", append(raw(t, "28 b5 2f fd 00 88"), block(0, 1, 1, 1)...), 0, "window"},
		{"less than declared", frame(3, block(0, 2, 1, 1, 2)), 0, "declares 3 bytes, its blocks hold 2 at most"},
		{"more than declared", frame(1, block(0, 2, 1, 1, 2)), 0, "frame"},
	} {
		_, err := task.Decompress(tc.body, tc.limit)
		if !errors.Is(err, task.ErrBadBody) || !strings.Contains(strings.ToLower(err.Error()), tc.want) {
			t.Errorf("%s: Decompress = %v, want ErrBadBody with %q", tc.name, err, tc.want)
		}
	}
	for _, limit := range []int{0, 300 << 10, 20 << 20} {
		if out, err := task.Decompress(good, limit); err != nil || len(out) != 300<<10 {
			t.Errorf("Decompress within %d = %d bytes, %v, want %d", limit, len(out), err, 300<<10)
		}
	}
	for _, tc := range [][]byte{frame(2, block(0, 2, 1, 1, 2)), frame(-1, block(0, 2, 1, 1, 2))} {
		if out, err := task.Decompress(tc, 2); err != nil || !bytes.Equal(out, []byte{1, 2}) {
			t.Errorf("Decompress(%x) = %x, %v, want 0102", tc, out, err)
		}
	}
}

func FuzzDecompress(f *testing.F) {
	good, _ := task.Compress(bytes.Repeat([]byte("abcdefghij"), 1000))
	f.Add(good)
	f.Add(frame(2, block(0, 2, 1, 1, 2)))
	f.Add(frame(-1, block(1, 1<<16, 0, 'a'), block(0, 2, 1, 1, 2)))
	f.Add(frame(1<<30, block(1, 1<<17, 1, 'a')))
	f.Add(frame(-1, zeros(f, 1<<10), block(1, 1<<17, 1, 'a')))
	f.Fuzz(func(t *testing.T, body []byte) {
		const limit = 1 << 20
		var out []byte
		var err error
		got := allocated(func() { out, err = task.Decompress(body, limit) })
		if err != nil && !errors.Is(err, task.ErrBadBody) || len(out) > limit {
			t.Errorf("Decompress = %d bytes, %v", len(out), err)
		}
		if got > 4*limit {
			t.Errorf("Decompress allocates %d bytes", got)
		}
	})
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

func BenchmarkCompress(b *testing.B) {
	for _, bc := range []struct {
		name string
		make func(n int) []byte // or somewhat more
	}{
		{"json", orders},
		{"hex", func(n int) []byte { return hex.AppendEncode(nil, random(b, n/2)) }},
		{"base64", func(n int) []byte { return base64.StdEncoding.AppendEncode(nil, random(b, n/4*3)) }},
		{"random", func(n int) []byte { return random(b, n) }},
	} {
		for _, kib := range []int{8, 64, 1024} {
			body := bc.make(kib << 10)
			out, ok := task.Compress(body)
			name := fmt.Sprintf("%s %d KiB", bc.name, kib)
			b.Run(name, func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					task.Compress(body)
				}
				b.ReportMetric(float64(len(out))/float64(len(body)), "ratio")
			})
			if !ok {
				continue
			}
			b.Run(name+" back", func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := task.Decompress(out, 0); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// orders is JSON as an export has it, of n bytes or somewhat more.
func orders(n int) []byte {
	r := mathrand.New(mathrand.NewPCG(1, 2))
	var b []byte
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, `{"order":%d,"customer":"customer %d","total":%d.%02d,"paid":%t,"placed":"2026-%02d-%02dT%02d:%02d:00Z","token":"%016x"},`,
			100_000+i, r.IntN(5000), r.IntN(1000), r.IntN(100), i%3 == 0, 1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.Uint64())
	}
	return b
}
