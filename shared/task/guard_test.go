package task_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/droverhq/drover/shared/task"
)

// raw is the bytes that its arguments spell: a string in hex (spaces ignored), or bytes.
func raw(tb testing.TB, parts ...any) []byte {
	tb.Helper()
	var out []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b, err := hex.DecodeString(strings.ReplaceAll(p, " ", ""))
			if err != nil {
				tb.Fatal(err)
			}
			out = append(out, b...)
		case []byte:
			out = append(out, p...)
		}
	}
	return out
}

func times(n int, b ...byte) []byte { return []byte(strings.Repeat(string(b), n)) }

// distinct is the entries of a map with n keys of 4 bytes, each with nil.
func distinct(n int) []byte {
	var b []byte
	for i := range n {
		b = append(b, 0xa4)
		b = fmt.Appendf(b, "%04x", i)
		b = append(b, 0xc0)
	}
	return b
}

// every is a body with every format that is allowed.
func every(tb testing.TB) []byte {
	tb.Helper()
	return raw(tb, "de 001b",
		"a0 c0", "a1 61 c2", "a1 62 c3", "a1 63 7f", "a1 64 e0", // "", nil, booleans, fixed numbers
		"a1 65 cc ff", "a1 66 cd ffff", "a1 67 ce ffffffff", "a1 68 cf ffffffffffffffff",
		"a1 69 d0 80", "a1 6a d1 8000", "a1 6b d2 80000000", "a1 6c d3 8000000000000000",
		"a1 6d ca 3f800000", "a1 6e cb 3ff0000000000000",
		"a1 6f a2 6869", "a1 70 d9 02 6869", "a1 71 da 0002 6869", "a1 72 db 00000002 6869",
		"a1 73 c4 01 00", "a1 74 c5 0001 00", "a1 75 c6 00000001 00",
		"d9 01 76 92 dc 0001 01 dd 00000001 02", "a1 77 82 a1 61 de 0000 a1 62 df 00000000",
		"a1 78 d6 ff 00000001", "a1 79 d7 ff 0000000400000001", "a1 7a c7 0c ff 00000001 ffffffffffffffff")
}

func TestCheckAccepts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		body []byte
		l    task.Limits
	}{
		{"empty", nil, task.Limits{}},
		{"empty map", raw(t, "80"), task.Limits{}},
		{"every format", every(t), task.Limits{}},
		{"32 levels", raw(t, "81 a1 61", times(30, 0x91), "90"), task.Limits{}},
		{"32 levels and a value", raw(t, "81 a1 61", times(31, 0x91), "c0"), task.Limits{}},
		{"64 levels", raw(t, "81 a1 61", times(62, 0x91), "90"), task.Limits{Depth: 1000}},
		{"33 keys", raw(t, "de 0021", distinct(33)), task.Limits{}},
		{"65,535 keys", raw(t, "de ffff", distinct(65535)), task.Limits{}},
		{"1,048,576 items", raw(t, "81 a1 61 dd 000fffff", times(1<<20-1, 0xc0)), task.Limits{}},
		{"same key in two maps", raw(t, "82 a1 61 81 a1 61 c0 a1 62 81 a1 61 c0"), task.Limits{}},
		{"long key", raw(t, "81 da 0400", times(1024, 'k'), "c0"), task.Limits{}},
		{"limits met exactly", raw(t, "81 a1 61 91 90"), task.Limits{Bytes: 5, Depth: 3, Items: 2}},
	} {
		if err := task.Check(tc.body, tc.l); err != nil {
			t.Errorf("%s: Check = %v, want nil", tc.name, err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	var none task.Limits
	a := func(value ...any) []byte { return raw(t, append([]any{"81 a1 61"}, value...)...) } // {"a": value}
	for _, tc := range []struct {
		name string
		body []byte
		l    task.Limits
		want string // in the error
	}{
		{"nil", raw(t, "c0"), none, "byte 0: 0xc0 begins no map"},
		{"number", raw(t, "01"), none, "byte 0: 0x01 begins no map"},
		{"string", raw(t, "a2 6869"), none, "byte 0: 0xa2 begins no map"},
		{"bytes of 4 GiB", raw(t, "c6 ffffffff"), none, "byte 0: 0xc6 begins no map"},
		{"array", raw(t, "90"), none, "byte 0: 0x90 begins no map"},
		{"array of 4 Gi", raw(t, "dd ffffffff"), none, "byte 0: 0xdd begins no map"},
		{"timestamp", raw(t, "d6 ff 00000000"), none, "byte 0: 0xd6 begins no map"},
		{"JSON", []byte(`{"to":"a"}`), none, "byte 0: 0x7b begins no map"},
		{"300 arrays of 64 Ki", raw(t, []byte(strings.Repeat("\xdc\xff\xff", 300))), none, "byte 0"},
		{"a million arrays", times(1_000_000, 0x91), none, "byte 0"},

		{"map of 4 Gi", raw(t, "df ffffffff"), none, "byte 0: 0xdf of 4294967295 items, there is room for 0"},
		{"map of 2 Gi", raw(t, "df 80000000 a1 61"), none, "byte 0: 0xdf of 2147483648 items, there is room for 1"},
		{"map of one too many", raw(t, "82 a0 c0 a1"), none, "byte 0: 0x82 of 2 items, there is room for 1"},
		{"map16 short", raw(t, "de ff"), none, "byte 0: 0xde needs 3 bytes, 2 are left"},
		{"map32 short", raw(t, "df 000000"), none, "byte 0: 0xdf needs 5 bytes, 4 are left"},
		{"inner map of 4 Gi", a("df ffffffff"), none, "byte 3: 0xdf of 4294967295 items"},
		{"inner array of 4 Gi", a("dd ffffffff"), none, "byte 3: 0xdd of 4294967295 items"},
		{"inner array of 64 Ki", a("dc ffff c0"), none, "byte 3: 0xdc of 65535 items, there is room for 1"},
		{"300 inner arrays of 64 Ki", a([]byte(strings.Repeat("\xdc\xff\xff", 300))), none, "byte 3: 0xdc of 65535 items"},
		{"300 long arrays of 64 Ki", a([]byte(strings.Repeat("\xdc\xff\xff", 300)), times(1<<17, 0xc0)), none, "more than 1048576 items"},
		{"a million inner arrays", a(times(1_000_000, 0x91)), none, "byte 34: more than 32 levels"},
		{"a million inner maps", a([]byte(strings.Repeat("\x81\xa0", 500_000))), none, "byte 65: more than 32 levels"},
		{"33 levels", a(times(31, 0x91), "90"), none, "byte 34: more than 32 levels"},
		{"65 levels", a(times(63, 0x91), "90"), task.Limits{Depth: 1000}, "byte 66: more than 64 levels"},
		{"2 levels of 1", a("90"), task.Limits{Depth: 1}, "byte 3: more than 1 levels"},
		{"a million items too many", a("dd 00100000", times(1<<20, 0xc0)), none, "byte 3: more than 1048576 items"},
		{"3 items of 2", a("92 c0 c0"), task.Limits{Items: 2}, "byte 3: more than 2 items"},
		{"6 bytes of 5", a("92 c0 c0"), task.Limits{Bytes: 5}, "byte 5: 6 bytes, at most 5 are allowed"},
		{"16 MiB and 1", times(16<<20+1, 0x80), none, "at most 16777216 are allowed"},

		{"str8 of nothing", a("d9"), none, "byte 3: 0xd9 needs 2 bytes, 1 are left"},
		{"str8 short", a("d9 05 6869"), none, "byte 3: 0xd9 of 5 bytes, 2 are left"},
		{"str16 short", a("da ffff 6869"), none, "byte 3: 0xda of 65535 bytes, 2 are left"},
		{"str32 of 4 GiB", a("db ffffffff"), none, "byte 3: 0xdb of 4294967295 bytes, 0 are left"},
		{"fixstr short", a("a5 6869"), none, "byte 3: 0xa5 of 5 bytes, 2 are left"},
		{"bin8 short", a("c4 02 00"), none, "byte 3: 0xc4 of 2 bytes, 1 are left"},
		{"bin16 short", a("c5 0002 00"), none, "byte 3: 0xc5 of 2 bytes, 1 are left"},
		{"bin32 of 4 GiB", a("c6 ffffffff"), none, "byte 3: 0xc6 of 4294967295 bytes, 0 are left"},
		{"uint64 short", a("cf 00000000000000"), none, "byte 3: 0xcf needs 9 bytes, 8 are left"},
		{"float32 short", a("ca 000000"), none, "byte 3: 0xca needs 5 bytes, 4 are left"},
		{"key without value", raw(t, "81 a1 61"), none, "byte 3: the body ends, with 1 values to come at level 1"},
		{"value missing in array", a("92 c0"), none, "byte 3: 0x92 of 2 items, there is room for 1"},
		{"array eats the next key", raw(t, "82 a1 61 93 c0 a1 62"), none, "byte 7: the body ends, with 1 values to come at level 2"},

		{"reserved format", a("c1"), none, "byte 3: 0xc1 begins no value that is allowed"},
		{"fixext1", a("d4 ff 00"), none, "byte 3: an extension"},
		{"fixext2", a("d5 ff 0000"), none, "byte 3: an extension"},
		{"fixext4 of another type", a("d6 0d 00000000"), none, "byte 3: an extension"},
		{"fixext8 of another type", a("d7 00 0000000000000000"), none, "byte 3: an extension"},
		{"fixext16", a("d8 ff", times(16, 0)), none, "byte 3: an extension"},
		{"ext8 of another type", a("c7 0c 05", times(12, 0)), none, "byte 3: an extension"},
		{"ext8 of another size", a("c7 04 ff 00000000"), none, "byte 3: an extension"},
		{"ext16", a("c8 000c ff", times(12, 0)), none, "byte 3: an extension"},
		{"ext32 of 4 GiB", a("c9 ffffffff ff"), none, "byte 3: an extension"},
		{"timestamp 32 short", a("d6 ff 000000"), none, "byte 3: timestamp of 4 bytes, 3 are left"},
		{"timestamp 64 short", a("d7 ff 000000"), none, "byte 3: timestamp of 8 bytes, 3 are left"},
		{"timestamp 96 short", a("c7 0c ff", times(11, 0)), none, "byte 3: timestamp of 12 bytes, 11 are left"},
		{"timestamp without type", a("d6"), none, "byte 3: 0xd6 needs 2 bytes, 1 are left"},

		{"number key", raw(t, "81 01 c0"), none, "byte 1: a map key begins with 0x01, not a string"},
		{"nil key", raw(t, "81 c0 c0"), none, "byte 1: a map key begins with 0xc0"},
		{"bytes key", raw(t, "81 c4 01 61 c0"), none, "byte 1: a map key begins with 0xc4"},
		{"array key", raw(t, "81 90 c0"), none, "byte 1: a map key begins with 0x90"},
		{"inner array key", a("81 91 c0 c0"), none, "byte 4: a map key begins with 0x91"},
		{"inner number key", a("82 a1 61 c0 05 c0"), none, "byte 7: a map key begins with 0x05"},
		{"key after array", raw(t, "82 a1 61 91 c0 05 c0"), none, "byte 5: a map key begins with 0x05"},
		{"same key", raw(t, "82 a1 61 01 a1 61 02"), none, `byte 4: key "a" for the second time`},
		{"same key, other form", raw(t, "82 a1 61 01 d9 01 61 02"), none, `byte 4: key "a" for the second time`},
		{"same empty key", raw(t, "82 a0 01 a0 02"), none, `byte 3: key "" for the second time`},
		{"same among 32", raw(t, "de 0020", distinct(31), "a4 30303065 c0"), none, `key "000e" for the second time`},
		{"same among 1,000", raw(t, "de 03e8", distinct(999), "a4 30316437 c0"), none, `key "01d7" for the second time`},
		{"byte after", raw(t, "80 80"), none, "byte 1: 1 bytes after the map"},
		{"text after", a("01", "6869 0a"), none, "byte 4: 3 bytes after the map"},
	} {
		err := task.Check(tc.body, tc.l)
		if !errors.Is(err, task.ErrBadBody) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Check = %v, want ErrBadBody with %q", tc.name, err, tc.want)
		}
	}
}

func TestCheckTruncated(t *testing.T) {
	t.Parallel()
	body := every(t)
	for n := 1; n < len(body); n++ {
		if err := task.Check(body[:n], task.Limits{}); !errors.Is(err, task.ErrBadBody) {
			t.Errorf("Check(first %d of %d bytes) = %v, want ErrBadBody", n, len(body), err)
		}
	}
}

// Not parallel: AllocsPerRun counts what the whole process allocates.
func TestCheckAllocates(t *testing.T) {
	typical, full := typicalBody(t), every(t)
	got := testing.AllocsPerRun(1000, func() {
		if task.Check(typical, task.Limits{}) != nil || task.Check(full, task.Limits{}) != nil {
			t.Error("Check refused a good body")
		}
	})
	if got != 0 {
		t.Errorf("Check allocates %v times, want 0", got)
	}
}

// allocated is how many bytes f allocates. Meaningful only while nothing runs in parallel.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// fragile has the fields that a hostile body aims at.
type fragile struct {
	A any               `msgpack:"a"`
	B []byte            `msgpack:"b"`
	I []int64           `msgpack:"i"`
	L []any             `msgpack:"l"`
	M map[string]any    `msgpack:"m"`
	N *fragile          `msgpack:"n"`
	R [4]uint16         `msgpack:"r"`
	S string            `msgpack:"s"`
	T *time.Time        `msgpack:"t"` // nil would panic in a time.Time
	U map[string]string `msgpack:"u"`
	V map[string]wide   `msgpack:"v"`
	W []wide            `msgpack:"w"`
	X [][]string        `msgpack:"x"`
}

type wide struct {
	Words [24]int64 `msgpack:"w"` // 192 bytes
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(every(f))
	f.Add(typicalBody(f))
	for _, body := range timesForMaps(f) {
		f.Add(body)
	}
	for _, k := range "abilmnrstuvwx" {
		for _, v := range []string{"dd ffffffff", "df ffffffff", "c6 ffffffff", "dc 0003 c0c0c0", "d6 ff df0fffff", "92 80 90", "81 a1 61 c4 01 00"} {
			f.Add(raw(f, "81 a1", []byte{byte(k)}, v))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if task.Check(body, task.Limits{}) != nil {
			return
		}
		in := bytes.NewReader(body)
		if err := msgpack.NewDecoder(in).Skip(); len(body) > 0 && (err != nil || in.Len() > 0) {
			t.Errorf("Skip = %v, %d bytes are left, want none", err, in.Len())
		}
		for _, v := range []any{new(any), new(map[string]any), new(fragile)} {
			var err error
			got := allocated(func() { err = task.Unmarshal(body, v) })
			if err != nil && strings.Contains(err.Error(), "panic") {
				t.Errorf("Unmarshal into %T: %v", v, err)
			}
			if limit := uint64(1<<20 + 1024*len(body)); got > limit {
				t.Errorf("Unmarshal of %d bytes into %T allocates %d bytes, want at most %d", len(body), v, got, limit)
			}
		}
	})
}

func typicalBody(tb testing.TB) []byte {
	tb.Helper()
	body, err := msgpack.Marshal(map[string]any{
		"to": "someone@example.com", "subject": "Your order has been shipped", "template": "order-shipped",
		"width": 320, "height": int64(240), "tags": []string{"mail", "order"}, "ok": true, "at": time.Unix(1700000000, 5),
		"vars": map[string]any{"order": "A-1029384756", "name": "Ada Lovelace", "total": 99.5},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

func BenchmarkCheck(b *testing.B) {
	for _, bc := range []struct {
		name string
		body []byte
	}{
		{"typical 200 B", typicalBody(b)},
		{"100,000 numbers", raw(b, "81 a1 61 dd 000186a0", times(100_000, 0x01))},
		{"1,000 keys", raw(b, "de 03e8", distinct(1000))},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.SetBytes(int64(len(bc.body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := task.Check(bc.body, task.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
