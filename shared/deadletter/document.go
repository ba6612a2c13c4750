package deadletter

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"github.com/droverhq/drover/shared/task"
)

// Document is the arguments of a task as JSON that loses nothing, for people to
// read and edit. What JSON has no word for is an object of one key:
//
//	{"$bin": "AQI="}                     bytes, in base64
//	{"$time": "2026-05-04T10:00:00Z"}    a time, RFC 3339 with nanoseconds
//	{"$msgpack": "y3/4AAAAAAAA"}         anything else, msgpack in base64
//	{"$map": {"$bin": 1}}                a map that would look like one of these
//
// Integers have all their digits, floats have a point or an exponent, and keys stay
// in their order. What is not edited keeps its bytes: the width of its numbers, say.
// The zero value is no arguments. A Document is not safe for concurrent use while it
// is changed.
type Document struct{ root node }

const (
	wordBin     = "$bin"
	wordTime    = "$time"
	wordMsgpack = "$msgpack"
	wordMap     = "$map"
)

// node is one value. Of kind other it is only its bytes.
type node struct {
	kind nodeKind
	raw  []byte // the msgpack that it came from; nil when it was edited
	json []byte // of a scalar, as the document shows it
	keys []string
	list []node // of a list; of a map, by keys
}

type nodeKind uint8

const (
	nullNode nodeKind = iota
	boolNode
	intNode
	floatNode
	float32Node
	stringNode
	wordNode // bytes, times and the rest: an object of one key
	listNode
	mapNode
)

func (k nodeKind) String() string {
	return [...]string{"null", "true or false", "an integer", "a number", "a number", "a string", "a value that JSON has not", "a list", "an object"}[k]
}

// NewDocument reads a body. The error wraps task.ErrBadBody if it does not pass the
// guard.
func NewDocument(body []byte) (*Document, error) {
	if err := task.Check(body, task.Limits{}); err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return &Document{root: node{kind: mapNode}}, nil
	}
	r := bytes.NewReader(body)
	p := parser{body: body, in: r, dec: msgpack.NewDecoder(r)}
	root, err := p.value()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", task.ErrBadBody, err)
	}
	if root.kind != mapNode {
		return nil, fmt.Errorf("%w: the keys of the arguments are no text", task.ErrBadBody)
	}
	return &Document{root: root}, nil
}

// parser makes nodes of a body that has been checked, so that it recurses and
// allocates within the limits of the check.
type parser struct {
	body []byte
	in   *bytes.Reader // under dec, which reads no further than it has to
	dec  *msgpack.Decoder
}

func (p *parser) at() int { return len(p.body) - p.in.Len() }

func (p *parser) value() (node, error) {
	start := p.at()
	n, err := p.inner()
	n.raw = p.body[start:p.at():p.at()]
	if err == nil && n.kind == wordNode && n.json == nil {
		n.json = word(wordMsgpack, base64.StdEncoding.EncodeToString(n.raw))
	}
	return n, err
}

func (p *parser) inner() (node, error) {
	c := p.body[p.at()]
	switch {
	case c == msgpcode.Nil:
		return node{kind: nullNode, json: []byte("null")}, p.dec.DecodeNil()
	case c == msgpcode.False, c == msgpcode.True:
		v, err := p.dec.DecodeBool()
		return node{kind: boolNode, json: strconv.AppendBool(nil, v)}, err
	case c == msgpcode.Float:
		v, err := p.dec.DecodeFloat32()
		return float(float32Node, float64(v), 32), err
	case c == msgpcode.Double:
		v, err := p.dec.DecodeFloat64()
		return float(floatNode, v, 64), err
	case msgpcode.IsString(c):
		v, err := p.dec.DecodeString()
		if !utf8.ValidString(v) {
			return node{kind: wordNode}, err
		}
		return node{kind: stringNode, json: quote(v)}, err
	case msgpcode.IsBin(c):
		v, err := p.dec.DecodeBytes()
		return node{kind: wordNode, json: word(wordBin, base64.StdEncoding.EncodeToString(v))}, err
	case msgpcode.IsExt(c):
		return p.time()
	case msgpcode.IsFixedArray(c), c == msgpcode.Array16, c == msgpcode.Array32:
		return p.array()
	case msgpcode.IsFixedMap(c), c == msgpcode.Map16, c == msgpcode.Map32:
		return p.object()
	case c == msgpcode.Uint64:
		v, err := p.dec.DecodeUint64()
		return node{kind: intNode, json: strconv.AppendUint(nil, v, 10)}, err
	}
	v, err := p.dec.DecodeInt64()
	return node{kind: intNode, json: strconv.AppendInt(nil, v, 10)}, err
}

// float is a number that reads as one that is no integer.
func float(kind nodeKind, v float64, bits int) node {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return node{kind: wordNode}
	}
	text := strconv.AppendFloat(nil, v, 'g', -1, bits)
	if !bytes.ContainsAny(text, ".e") {
		text = append(text, ".0"...)
	}
	return node{kind: kind, json: text}
}

const lastYear = 9999 // that RFC 3339 can write

func (p *parser) time() (node, error) {
	v, err := p.dec.DecodeTime()
	if err != nil {
		return node{}, err
	}
	if v = v.UTC(); v.Year() < 0 || v.Year() > lastYear {
		return node{kind: wordNode}, nil
	}
	return node{kind: wordNode, json: word(wordTime, v.Format(time.RFC3339Nano))}, nil
}

func (p *parser) array() (node, error) {
	n, err := p.dec.DecodeArrayLen()
	if err != nil {
		return node{}, err
	}
	out := node{kind: listNode, list: make([]node, 0, min(n, 1024))}
	for range n {
		v, err := p.value()
		if err != nil {
			return node{}, err
		}
		out.list = append(out.list, v)
	}
	return out, nil
}

// object reads a map. One with a key twice, or one that is no text, is its bytes.
func (p *parser) object() (node, error) {
	n, err := p.dec.DecodeMapLen()
	if err != nil {
		return node{}, err
	}
	out := node{kind: mapNode, keys: make([]string, 0, min(n, 1024)), list: make([]node, 0, min(n, 1024))}
	seen := make(map[string]bool, min(n, 1024))
	sound := true
	for range n {
		key, err := p.dec.DecodeString()
		if err != nil {
			return node{}, err
		}
		sound = sound && !seen[key] && utf8.ValidString(key)
		seen[key] = true
		v, err := p.value()
		if err != nil {
			return node{}, err
		}
		out.keys, out.list = append(out.keys, key), append(out.list, v)
	}
	if !sound {
		return node{kind: wordNode}, nil
	}
	return out, nil
}

func quote(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string into memory
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func word(name, text string) []byte {
	return fmt.Appendf(nil, `{%s: %s}`, quote(name), quote(text))
}

// JSON returns the document as indented JSON text, with a newline at its end.
func (d *Document) JSON() []byte {
	var b bytes.Buffer
	d.root.kind = mapNode
	d.root.write(&b, "")
	b.WriteByte('\n')
	return b.Bytes()
}

// MarshalJSON is JSON, on one line.
func (d *Document) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := json.Compact(&b, d.JSON())
	return b.Bytes(), err
}

const step = "  "

func (n *node) write(b *bytes.Buffer, indent string) {
	open, end := byte('['), byte(']')
	switch {
	case n.kind != mapNode && n.kind != listNode:
		b.Write(n.json)
		return
	case n.kind == mapNode && n.ambiguous():
		b.WriteString(`{"` + wordMap + `": `)
		defer b.WriteByte('}')
	}
	if n.kind == mapNode {
		open, end = '{', '}'
	}
	b.WriteByte(open)
	for i := range n.list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n" + indent + step)
		if n.kind == mapNode {
			b.Write(quote(n.keys[i]))
			b.WriteString(": ")
		}
		n.list[i].write(b, indent+step)
	}
	if len(n.list) > 0 {
		b.WriteString("\n" + indent)
	}
	b.WriteByte(end)
}

// ambiguous reports whether the map reads as one of the words.
func (n *node) ambiguous() bool {
	if len(n.keys) != 1 {
		return false
	}
	switch n.keys[0] {
	case wordBin, wordTime, wordMsgpack, wordMap:
		return true
	}
	return false
}

// Body returns the document as a body that passes task.Check. The error wraps
// task.ErrBadBody if it would not.
func (d *Document) Body() ([]byte, error) {
	var b bytes.Buffer
	d.root.kind = mapNode
	if err := d.root.encode(msgpack.NewEncoder(&b), &b); err != nil {
		return nil, fmt.Errorf("encode arguments: %w", err)
	}
	if err := task.Check(b.Bytes(), task.Limits{}); err != nil {
		return nil, fmt.Errorf("encode arguments: %w", err)
	}
	return b.Bytes(), nil
}

// encode writes n to b, which is under e.
func (n *node) encode(e *msgpack.Encoder, b *bytes.Buffer) error {
	if n.raw != nil {
		b.Write(n.raw)
		return nil
	}
	switch n.kind {
	case mapNode:
		if err := e.EncodeMapLen(len(n.list)); err != nil {
			return err
		}
	case listNode:
		if err := e.EncodeArrayLen(len(n.list)); err != nil {
			return err
		}
	default:
		return errors.New("a value without its bytes")
	}
	for i := range n.list {
		if n.kind == mapNode {
			if err := e.EncodeString(n.keys[i]); err != nil {
				return err
			}
		}
		if err := n.list[i].encode(e, b); err != nil {
			return err
		}
	}
	return nil
}
