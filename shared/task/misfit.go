package task

import (
	"bytes"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// misfit names the field of a map whose value decoding has stopped in, at this offset,
// and what the value is: the decoder's own error says neither. It returns "" when it
// was not in the value of a field.
func misfit(body []byte, at int) string {
	r := bytes.NewReader(body)
	d := msgpack.NewDecoder(r)
	n, err := d.DecodeMapLen()
	for ; err == nil && n > 0; n-- {
		var key string
		if key, err = d.DecodeString(); err != nil {
			break
		}
		begin := len(body) - r.Len()
		if at <= begin {
			break
		}
		if err = d.Skip(); err == nil && at <= len(body)-r.Len() {
			return fmt.Sprintf("field %q holds %s: ", key, holds(body[begin]))
		}
	}
	return ""
}

// holds says what begins with this byte, as the msgpack specification has it.
func holds(first byte) string {
	switch {
	case first <= 0x7f, first >= 0xe0, first >= 0xcc && first <= 0xd3:
		return "an integer"
	case first <= 0x8f, first == 0xde, first == 0xdf:
		return "a map"
	case first <= 0x9f, first == 0xdc, first == 0xdd:
		return "an array"
	case first <= 0xbf, first >= 0xd9 && first <= 0xdb:
		return "a string"
	case first == 0xc0:
		return "nil"
	case first == 0xc2, first == 0xc3:
		return "a bool"
	case first >= 0xc4 && first <= 0xc6:
		return "bytes"
	case first == 0xca, first == 0xcb:
		return "a float"
	}
	return "an extension"
}
