package task

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
)

// ErrBadBody is returned when a body is not one msgpack map that is safe to
// decode, does not decompress within its limit, or does not fit the type it is
// decoded into. No further attempt can mend it.
var ErrBadBody = errors.New("bad body")

// Limits bound what [Check] lets pass. The zero value means the defaults, and so
// does a field that is zero or negative.
type Limits struct {
	Bytes int // of the whole body; default 16 MiB, at most 1 GiB
	Depth int // of maps and arrays in one another, the body itself being 1; default 32, at most 64
	Items int // array elements and map entries in all; default 1,048,576
}

// MaxBody is the size in bytes of the largest body, decompressed, that a task may
// have: 16 MiB. Larger inputs belong into an object store, and their name into
// the task.
const MaxBody = 16 << 20

const (
	defaultBytes = MaxBody
	defaultDepth = 32
	defaultItems = 1 << 20
	maxBytes     = 1 << 30 // so that offsets fit uint32
	maxDepth     = 64      // so that the open containers fit an array, and their kinds a word
)

func (l Limits) orDefault() Limits {
	if l.Bytes <= 0 {
		l.Bytes = defaultBytes
	}
	if l.Depth <= 0 {
		l.Depth = defaultDepth
	}
	if l.Items <= 0 {
		l.Items = defaultItems
	}
	l.Bytes, l.Depth = min(l.Bytes, maxBytes), min(l.Depth, maxDepth)
	return l
}

// Check reports whether body can be given to a msgpack decoder without harm: it
// is empty, or exactly one map in which every declared length is backed by bytes
// that are there. All map keys are strings, those of the outermost map differ,
// the only extension is the timestamp, and l holds. The error wraps [ErrBadBody]
// and names the offset of the byte that is wrong.
//
// A decoder that makes []T of a checked array still allocates its length times
// the size of T; that is what Items bounds. Check does not recurse. When the
// body passes it allocates nothing, unless the outermost map has more than 32
// keys: then one table of at most 16 bytes a key.
func Check(body []byte, l Limits) error { return checkBody(body, l, nil) }

// checkBody is Check, and appends to stamps where each timestamp's bytes begin.
func checkBody(body []byte, l Limits, stamps *[]int) error {
	l = l.orDefault()
	switch {
	case len(body) == 0:
		return nil
	case len(body) > l.Bytes:
		return badBody(l.Bytes, "%d bytes, at most %d are allowed", len(body), l.Bytes)
	case formats[body[0]].kind != mapFormat:
		return badBody(0, "0x%02x begins no map, and the arguments must be one", body[0])
	}
	g := guard{body: body, left: 1}
	for {
		for g.left == 0 {
			if g.depth == 0 {
				if g.at < len(body) {
					return badBody(g.at, "%d bytes after the map", len(body)-g.at)
				}
				return nil
			}
			g.depth--
			g.left = uint(g.open[g.depth])
		}
		if g.short(); g.left == 0 {
			continue
		}
		if g.at == len(body) {
			return badBody(g.at, "the body ends, with %d values to come at level %d", g.left, g.depth)
		}
		if err := g.value(&l, stamps); err != nil {
			return err
		}
	}
}

// guard is the state of one check.
type guard struct {
	body  []byte
	at    int              // the next byte
	left  uint             // values to come in the innermost container; even before a map's key
	depth int              // containers that are open
	open  [maxDepth]uint32 // values to come in those around the innermost
	maps  uint64           // bit d: the container at depth d+1 is a map
	items uint
	keys  keyset
}

// short passes over the values of the innermost container up to one whose first
// byte does not tell its size: the fast path for most of most bodies.
func (g *guard) short() {
	body, at, left := g.body, g.at, g.left
	inMap, outer := g.inMap(), g.depth == 1
	for left > 0 && uint(at) < uint(len(body)) {
		c := body[at]
		next := at + int(sizes[c])
		if next == at || next > len(body) {
			break
		}
		if inMap && left&1 == 0 && (c>>5 != 0xa0>>5 || outer && !g.keys.add(body, at, body[at+1:next])) {
			break
		}
		at = next
		left--
	}
	g.at, g.left = at, left
}

// inMap reports whether the innermost container is a map.
func (g *guard) inMap() bool { return g.depth > 0 && g.maps>>(g.depth-1)&1 == 1 }

// value checks the next value, which has at least one byte, up to the first one
// inside it.
func (g *guard) value(l *Limits, stamps *[]int) error {
	c, rest := g.body[g.at], len(g.body)-g.at
	f := formats[c]
	if rest < int(f.head) {
		return badBody(g.at, "0x%02x needs %d bytes, %d are left", c, f.head, rest)
	}
	rest -= int(f.head)
	isKey := g.inMap() && g.left&1 == 0
	if isKey && f.kind != strFormat {
		return badBody(g.at, "a map key begins with 0x%02x, not a string", c)
	}
	g.left--
	switch f.kind {
	case scalarFormat:
		g.at += int(f.head)
	case strFormat, binFormat:
		start, n := g.at, lengthOf(f, g.body[g.at:])
		if n > uint(rest) {
			return badBody(start, "0x%02x of %d bytes, %d are left", c, n, rest)
		}
		g.at += int(f.head) + int(n)
		if isKey && g.depth == 1 && !g.keys.add(g.body, start, g.body[g.at-int(n):g.at]) {
			return badBody(start, "key %.64q for the second time", g.body[g.at-int(n):g.at])
		}
	case arrayFormat, mapFormat:
		return g.enter(f, uint(rest), l)
	case timeFormat:
		size := timeSize(g.body[g.at:])
		if size == 0 {
			return badBody(g.at, "an extension that is no timestamp")
		}
		if size > rest {
			return badBody(g.at, "timestamp of %d bytes, %d are left", size, rest)
		}
		g.at += int(f.head)
		if stamps != nil {
			*stamps = append(*stamps, g.at)
		}
		g.at += size
	default:
		return badBody(g.at, "0x%02x begins no value that is allowed", c)
	}
	return nil
}

// enter opens the array or map at g.at. After its header come rest bytes.
func (g *guard) enter(f format, rest uint, l *Limits) error {
	n := lengthOf(f, g.body[g.at:])
	values, bit := n, uint64(1)<<g.depth
	g.maps &^= bit
	if f.kind == mapFormat {
		values, rest = 2*n, rest/2
		g.maps |= bit
	}
	if n > rest { // each takes a byte at least
		return badBody(g.at, "0x%02x of %d items, there is room for %d", g.body[g.at], n, rest)
	}
	if g.items += n; g.items > uint(l.Items) {
		return badBody(g.at, "more than %d items", l.Items)
	}
	if g.depth == l.Depth {
		return badBody(g.at, "more than %d levels", l.Depth)
	}
	if g.depth == 0 {
		g.keys.expect(int(n))
	}
	g.open[g.depth], g.left = uint32(g.left), values
	g.depth++
	g.at += int(f.head)
	return nil
}

func badBody(at int, format string, args ...any) error {
	return fmt.Errorf("%w: byte %d: %s", ErrBadBody, at, fmt.Sprintf(format, args...))
}

// keyset finds a key that comes twice. It holds where keys begin. Few are
// compared in place; many go through a table whose hash is seeded at start, so
// that no publisher can aim for collisions.
type keyset struct {
	seen  uint64 // a bit for each cheap hash among few
	n     int
	few   [32]uint32
	table []uint32 // open addressing, at least half empty; 0 is a free place
}

var keySeed = maphash.MakeSeed()

// expect says how many keys will come.
func (k *keyset) expect(n int) {
	if n > len(k.few) {
		k.table = make([]uint32, 1<<bits.Len(uint(2*n-1)))
	}
}

// add reports whether the key s, which begins at body[at:], is new.
func (k *keyset) add(body []byte, at int, s []byte) bool {
	if k.table != nil {
		return k.addMany(body, at, s)
	}
	h := uint(len(s))
	if len(s) > 0 {
		h += 7 * uint(s[len(s)-1])
	}
	bit := uint64(1) << (h & 63)
	if k.seen&bit != 0 {
		for _, old := range k.few[:k.n] {
			if bytes.Equal(keyAt(body, int(old)), s) {
				return false
			}
		}
	}
	k.seen |= bit
	k.few[k.n] = uint32(at)
	k.n++
	return true
}

func (k *keyset) addMany(body []byte, at int, s []byte) bool {
	mask := uint64(len(k.table) - 1)
	for h := maphash.Bytes(keySeed, s) & mask; ; h = (h + 1) & mask {
		switch old := k.table[h]; {
		case old == 0:
			k.table[h] = uint32(at)
			return true
		case bytes.Equal(keyAt(body, int(old)), s):
			return false
		}
	}
}

// keyAt is the string that begins at body[at:] and has been checked.
func keyAt(body []byte, at int) []byte {
	f := formats[body[at]]
	start := at + int(f.head)
	return body[start : start+int(lengthOf(f, body[at:]))]
}

// format is how a value that begins with a certain byte is laid out.
type format struct {
	kind formatKind
	head uint8 // bytes before what the length counts; of a scalar all of them
	mask uint8 // the bits of the first byte that are the length, when head is 1
}

type formatKind uint8

const (
	noFormat formatKind = iota
	scalarFormat
	strFormat
	binFormat
	arrayFormat
	mapFormat
	timeFormat
)

var formats = func() (t [256]format) {
	for c := range t {
		switch {
		case c < 0x80 || c >= 0xe0:
			t[c] = format{scalarFormat, 1, 0}
		case c < 0x90:
			t[c] = format{mapFormat, 1, 0x0f}
		case c < 0xa0:
			t[c] = format{arrayFormat, 1, 0x0f}
		case c < 0xc0:
			t[c] = format{strFormat, 1, 0x1f}
		default:
			t[c] = format{noFormat, 1, 0}
		}
	}
	t[0xc0], t[0xc2], t[0xc3] = format{scalarFormat, 1, 0}, format{scalarFormat, 1, 0}, format{scalarFormat, 1, 0} // nil, false, true
	t[0xc4], t[0xc5], t[0xc6] = format{binFormat, 2, 0}, format{binFormat, 3, 0}, format{binFormat, 5, 0}
	t[0xca], t[0xcb] = format{scalarFormat, 5, 0}, format{scalarFormat, 9, 0} // floats
	for i := range 4 {                                                        // uint8 to uint64, int8 to int64
		t[0xcc+i], t[0xd0+i] = format{scalarFormat, 1 + 1<<i, 0}, format{scalarFormat, 1 + 1<<i, 0}
	}
	t[0xd9], t[0xda], t[0xdb] = format{strFormat, 2, 0}, format{strFormat, 3, 0}, format{strFormat, 5, 0}
	t[0xdc], t[0xdd] = format{arrayFormat, 3, 0}, format{arrayFormat, 5, 0}
	t[0xde], t[0xdf] = format{mapFormat, 3, 0}, format{mapFormat, 5, 0}
	t[0xd6], t[0xd7], t[0xc7] = format{timeFormat, 2, 0}, format{timeFormat, 2, 0}, format{timeFormat, 3, 0}
	for _, c := range []int{0xc8, 0xc9, 0xd4, 0xd5, 0xd8} { // extensions of sizes that no timestamp has
		t[c] = format{timeFormat, 2, 0}
	}
	return t
}()

// sizes are the bytes of a value that begins with a certain byte, 0 where that
// byte does not tell.
var sizes = func() (t [256]uint8) {
	for c, f := range formats {
		switch {
		case f.kind == scalarFormat:
			t[c] = f.head
		case f.kind == strFormat && f.head == 1:
			t[c] = 1 + uint8(c)&f.mask
		}
	}
	return t
}()

// lengthOf is the length that the header b declares; all of the header is there.
func lengthOf(f format, b []byte) uint {
	switch f.head {
	case 2:
		return uint(b[1])
	case 3:
		return uint(binary.BigEndian.Uint16(b[1:]))
	case 5:
		return uint(binary.BigEndian.Uint32(b[1:]))
	}
	return uint(b[0] & f.mask)
}

// timeSize is how many bytes follow the header of the timestamp that b begins
// with, or 0 when b begins with another extension.
func timeSize(b []byte) int {
	switch {
	case b[0] == 0xd6 && b[1] == 0xff:
		return 4 // seconds
	case b[0] == 0xd7 && b[1] == 0xff:
		return 8 // nanoseconds and seconds in one word
	case b[0] == 0xc7 && b[1] == 12 && b[2] == 0xff:
		return 12 // any time
	}
	return 0
}
