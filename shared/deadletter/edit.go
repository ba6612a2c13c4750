package deadletter

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/droverhq/drover/shared/task"
)

// ErrEdit is returned when what should become of a document is not legal. The
// document is then as it was.
var ErrEdit = errors.New("bad arguments")

// Edit makes the document what text says, which has the form of [Document.JSON] and
// must be one object. What reads as before keeps its bytes. A number in the place of
// a float stays one of the same width. The error wraps [ErrEdit].
func (d *Document) Edit(text []byte) error {
	v, err := read(text, &d.root)
	if err == nil && v.kind != mapNode {
		err = fmt.Errorf("they are %v, want an object", v.kind)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEdit, err)
	}
	d.root = v
	return nil
}

// Set sets the value at key to text, where a.b is b in a, and a.0 the first of list
// a; a key that is not there is made, and a.N appends to a list of N. A string stays
// one whatever text looks like, and a number or boolean must stay what it is. In the
// place of nothing or null, text is taken for the number, boolean or null that it
// looks like. Lists, objects, and what JSON has not are left to [Document.SetJSON].
// The error wraps [ErrEdit].
func (d *Document) Set(key, text string) error {
	return d.set(key, func(old *node) ([]byte, error) {
		number := jsonNumber.MatchString(text)
		is := func(ok bool) ([]byte, error) {
			if !ok {
				return nil, fmt.Errorf("it is %v, and %q is none: replace it with %s:=JSON", old.kind, text, key)
			}
			return []byte(text), nil
		}
		switch old.kind {
		case stringNode:
		case intNode:
			return is(number && !strings.ContainsAny(text, ".eE"))
		case floatNode, float32Node:
			return is(number)
		case boolNode:
			return is(text == "true" || text == "false")
		case listNode, mapNode, wordNode:
			return nil, fmt.Errorf("it is %v: replace it with %s:=JSON", old.kind, key)
		case nullNode:
			if number || slices.Contains([]string{"true", "false", "null"}, text) {
				return []byte(text), nil
			}
		}
		if !utf8.ValidString(text) {
			return nil, errors.New("the text is not UTF-8")
		}
		return quote(text), nil
	})
}

// jsonNumber leaves 007 and +49 alone: those are names, not numbers.
var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// SetJSON sets the value at key, as [Document.Set] finds it, to any JSON, in the
// form of [Document.JSON]. The error wraps [ErrEdit].
func (d *Document) SetJSON(key, text string) error {
	return d.set(key, func(*node) ([]byte, error) { return []byte(text), nil })
}

func (d *Document) set(key string, text func(old *node) ([]byte, error)) error {
	d.root.kind = mapNode
	root, err := d.root.with(strings.Split(key, "."), text)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrEdit, key, err)
	}
	d.root = root
	return nil
}

// with returns n with another value at path.
func (n *node) with(path []string, text func(old *node) ([]byte, error)) (node, error) {
	if len(path) == 0 {
		b, err := text(n)
		if err != nil {
			return node{}, err
		}
		return read(b, n)
	}
	key := path[0]
	out := node{kind: n.kind, keys: slices.Clone(n.keys), list: slices.Clone(n.list)}
	var i int
	switch {
	case key == "":
		return node{}, errors.New("a part of the key is empty")
	case n.kind == mapNode:
		if i = slices.Index(n.keys, key); i < 0 {
			i = len(n.list)
			out.keys, out.list = append(out.keys, key), append(out.list, node{})
		}
	case n.kind == listNode:
		var err error
		if i, err = strconv.Atoi(key); err != nil || i < 0 || i > len(n.list) {
			return node{}, fmt.Errorf("%q is no place in a list of %d", key, len(n.list))
		}
		if i == len(n.list) {
			out.list = append(out.list, n.next())
		}
	case n.kind == nullNode && n.raw == nil: // there was nothing
		return (&node{kind: mapNode}).with(path, text)
	default:
		return node{}, fmt.Errorf("it has no %q: what is above it is %v", key, n.kind)
	}
	v, err := out.list[i].with(path[1:], text)
	out.list[i] = v
	return out, err
}

// next is what a list's next element replaces: nothing, of the kind of the last one.
func (n *node) next() node {
	if len(n.list) > 0 {
		if k := n.list[len(n.list)-1].kind; k < wordNode {
			return node{kind: k}
		}
	}
	return node{}
}

// read makes a node of JSON text. What reads as in old is taken from there.
func read(text []byte, old *node) (node, error) {
	if !utf8.Valid(text) {
		return node{}, errors.New("the text is not UTF-8")
	}
	r := reader{json.NewDecoder(bytes.NewReader(text))}
	r.UseNumber()
	n, _, err := r.value(old, false, 0)
	if errors.Is(err, io.EOF) {
		err = errors.New("the JSON text ends too early")
	}
	if err != nil {
		return node{}, err
	}
	if _, err := r.Token(); !errors.Is(err, io.EOF) {
		return node{}, errors.New("something follows the JSON value")
	}
	return n, nil
}

type reader struct{ *json.Decoder }

const maxLevels = 64 // more than a body may have

// value reads one value, and reports whether all of it is as in old. An object that
// is literal is none of the words.
func (r reader) value(old *node, literal bool, level int) (node, bool, error) {
	if level > maxLevels {
		return node{}, false, errors.New("it has too many levels")
	}
	t, err := r.Token()
	if err != nil {
		return node{}, false, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			return r.array(old, level)
		}
		return r.object(old, literal, level)
	case json.Number:
		return readNumber(t.String(), old)
	case string:
		return scalar(node{kind: stringNode, json: quote(t)}, t, old)
	case bool:
		return scalar(node{kind: boolNode, json: strconv.AppendBool(nil, t)}, t, old)
	}
	return scalar(node{kind: nullNode, json: []byte("null")}, nil, old)
}

// scalar is old if that reads the same, and otherwise n with the msgpack of v.
func scalar(n node, v any, old *node) (node, bool, error) {
	if old != nil && old.raw != nil && old.kind == n.kind && bytes.Equal(old.json, n.json) {
		return *old, true, nil
	}
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	e.UseCompactInts(true)
	err := e.Encode(v)
	n.raw = b.Bytes()
	return n, false, err
}

func readNumber(text string, old *node) (node, bool, error) {
	kind := intNode
	switch {
	case old != nil && (old.kind == floatNode || old.kind == float32Node):
		kind = old.kind
	case strings.ContainsAny(text, ".eE"):
		kind = floatNode
	}
	if kind == float32Node {
		v, err := strconv.ParseFloat(text, 32)
		if err != nil {
			return node{}, false, fmt.Errorf("the number %s does not fit a float of 32 bits", text)
		}
		return scalar(float(kind, v, 32), float32(v), old)
	}
	if kind == floatNode {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return node{}, false, fmt.Errorf("the number %s does not fit a float of 64 bits", text)
		}
		return scalar(float(kind, v, 64), v, old)
	}
	if v, err := strconv.ParseInt(text, 10, 64); err == nil {
		return scalar(node{kind: intNode, json: strconv.AppendInt(nil, v, 10)}, v, old)
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return node{}, false, fmt.Errorf("the integer %s has more than 64 bits: give it as a string", text)
	}
	return scalar(node{kind: intNode, json: strconv.AppendUint(nil, v, 10)}, v, old)
}

func (r reader) array(old *node, level int) (node, bool, error) {
	was := &node{}
	if old != nil && old.kind == listNode {
		was = old
	}
	n, same := node{kind: listNode}, true
	for i := 0; r.More(); i++ {
		var before *node // one more is like the last one
		if len(was.list) > 0 {
			before = &was.list[min(i, len(was.list)-1)]
		}
		v, ok, err := r.value(before, false, level+1)
		if err != nil {
			return node{}, false, err
		}
		n.list, same = append(n.list, v), same && ok
	}
	if _, err := r.Token(); err != nil {
		return node{}, false, err
	}
	if same && was.raw != nil && len(n.list) == len(was.list) {
		return *was, true, nil
	}
	return n, false, nil
}

func (r reader) object(old *node, literal bool, level int) (node, bool, error) {
	was := &node{}
	if old != nil && old.kind == mapNode {
		was = old
	}
	n, same, seen := node{kind: mapNode}, true, map[string]bool{}
	for r.More() {
		t, err := r.Token()
		if err != nil {
			return node{}, false, err
		}
		key, _ := t.(string) // keys are
		if seen[key] {
			return node{}, false, fmt.Errorf("the key %q comes twice", key)
		}
		seen[key] = true
		if key == wordMap && !literal {
			return r.literal(old, len(seen) == 1, level)
		}
		var before *node
		if i := slices.Index(was.keys, key); i >= 0 {
			before = &was.list[i]
		}
		v, ok, err := r.value(before, false, level+1)
		if err != nil {
			return node{}, false, err
		}
		n.keys, n.list, same = append(n.keys, key), append(n.list, v), same && ok
	}
	if _, err := r.Token(); err != nil {
		return node{}, false, err
	}
	switch {
	case !literal && n.ambiguous():
		return n.word(old)
	case same && was.raw != nil && slices.Equal(n.keys, was.keys):
		return *was, true, nil
	}
	return n, false, nil
}

// literal reads what follows {"$map":, an object that is taken as it is.
func (r reader) literal(old *node, first bool, level int) (node, bool, error) {
	v, same, err := r.value(old, true, level+1)
	if err != nil {
		return node{}, false, err
	}
	if !first || r.More() || v.kind != mapNode {
		return node{}, false, fmt.Errorf("%s stands alone in its object, and holds an object", wordMap)
	}
	_, err = r.Token()
	return v, same, err
}

// word makes bytes, a time, or msgpack of an object of one key.
func (n *node) word(old *node) (node, bool, error) {
	name := n.keys[0]
	var text string
	if err := json.Unmarshal(n.list[0].json, &text); err != nil || n.list[0].kind != stringNode {
		return node{}, false, fmt.Errorf("%s holds a string; an object that only looks so is written {\"%s\": {…}}", name, wordMap)
	}
	out := node{kind: wordNode, json: word(name, text)}
	switch name {
	case wordTime:
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return node{}, false, fmt.Errorf("%s: %q is no time such as 2026-05-04T10:00:00Z", name, text)
		}
		return scalar(out, t, old)
	case wordBin:
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return node{}, false, fmt.Errorf("%s: %w", name, err)
		}
		return scalar(out, b, old)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = task.Check(append([]byte{0x81, 0xa0}, b...), task.Limits{}) // as the value of a map's only key
	}
	if err != nil {
		return node{}, false, fmt.Errorf("%s: %w", name, err)
	}
	if old != nil && old.kind == wordNode && bytes.Equal(old.raw, b) {
		return *old, true, nil
	}
	out.raw = b
	return out, false, nil
}
