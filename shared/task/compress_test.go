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
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/droverhq/drover/shared/task"
)

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
