package task

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/vmihailenco/msgpack/v5"
)

const (
	emptyMap  = 0x80
	nilValue  = 0xc0
	maxPooled = 64 << 10 // bytes: what worked on a larger body is not kept
)

// Marshal returns the body for the arguments v: a struct with msgpack tags, a map
// with string keys, or nil for no arguments. The body passes [Check] with default
// limits, so what is published can be decoded; otherwise the error wraps
// [ErrBadBody]. If v has a method RawBody() []byte, its bytes are the body,
// checked but neither decoded nor copied.
func Marshal(v any) ([]byte, error) {
	if raw, ok := v.(interface{ RawBody() []byte }); ok {
		body := raw.RawBody()
		if err := Check(body, Limits{}); err != nil {
			return nil, fmt.Errorf("encode %T: %w", v, err)
		}
		return body, nil
	}
	e := encoders.Get().(*bodyEncoder)
	e.buf.Reset()
	e.enc.Reset(&e.buf)
	e.enc.UseCompactInts(true)
	if err := e.enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	body := bytes.Clone(e.buf.Bytes())
	if e.buf.Cap() <= maxPooled {
		encoders.Put(e)
	}
	if len(body) == 1 && body[0] == nilValue { // nil, or a nil pointer or map
		body[0] = emptyMap
	}
	if err := Check(body, Limits{}); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return body, nil
}

type bodyEncoder struct {
	buf bytes.Buffer
	enc *msgpack.Encoder
}

var encoders = sync.Pool{New: func() any { return &bodyEncoder{enc: msgpack.NewEncoder(nil)} }}

// Unmarshal checks body with default limits and decodes it into v, a non-nil
// pointer. An empty body is an empty map. Fields that v does not have are
// ignored. Nothing in v aliases body. The error wraps [ErrBadBody] if body does
// not pass or does not fit v, also when decoding it panics. Nil fits every field
// but a time.Time and other structs that decode themselves; a pointer to one takes
// it.
//
// A field that keeps its msgpack undecoded, or a type with a method
// UnmarshalMsgpack, must decode with Unmarshal again, not with the msgpack
// package: that one takes the bytes of a timestamp for a map where a map is
// wanted, and allocates what they say.
func Unmarshal(body []byte, v any) (err error) {
	if p := reflect.ValueOf(v); p.Kind() != reflect.Pointer || p.IsNil() {
		return fmt.Errorf("decode into %T: not a pointer to something", v)
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *reflect.ValueError: // msgpack v5.4.1 asks any type whether it is nil
			err = fmt.Errorf("%w: decode into %T: nil for a field of a type that has none, such as time.Time: make it a pointer", ErrBadBody, v)
		default:
			err = fmt.Errorf("%w: decode into %T: panic: %v", ErrBadBody, v, p)
		}
	}()
	d := decoders.Get().(*bodyDecoder)
	d.in = bodyReader{stamps: d.in.stamps[:0]}
	if err := checkBody(body, Limits{}, &d.in.stamps); err != nil {
		return err
	}
	if d.in.body = body; len(body) == 0 {
		d.in.body = []byte{emptyMap}
	}
	d.dec.Reset(&d.in)
	if err := d.dec.Decode(v); err != nil {
		return fmt.Errorf("%w: decode into %T: %s%w", ErrBadBody, v, misfit(body, d.in.at), err)
	}
	d.in.body = nil
	if len(body) <= maxPooled {
		decoders.Put(d)
	}
	return nil
}

// bodyDecoder is kept only after a success: a decoder that stopped half way may
// go on recording what it reads. It is not from the pool of msgpack, whose
// Unmarshal starts a goroutine for each type that never ends.
type bodyDecoder struct {
	in  bodyReader
	dec *msgpack.Decoder
}

var decoders = sync.Pool{New: func() any { return &bodyDecoder{dec: msgpack.NewDecoder(nil)} }}

// bodyReader refuses to read the first byte of a timestamp as the first byte of a
// value. Only msgpack's DecodeMapLen does so: it skips the header of any
// extension, and then believes a length that Check took for time.
type bodyReader struct {
	body   []byte
	at     int
	stamps []int // where the bytes of timestamps begin
	passed int   // of stamps
}

var errTimeForMap = errors.New("a timestamp where a map is wanted")

// Read is what the decoder calls for the bytes of a value, timestamps included.
func (r *bodyReader) Read(p []byte) (int, error) {
	if r.at == len(r.body) && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, r.body[r.at:])
	r.at += n
	return n, nil
}

// ReadByte is what the decoder calls for the first byte of a value.
func (r *bodyReader) ReadByte() (byte, error) {
	if r.at == len(r.body) {
		return 0, io.EOF
	}
	for r.passed < len(r.stamps) && r.stamps[r.passed] < r.at {
		r.passed++
	}
	if r.passed < len(r.stamps) && r.stamps[r.passed] == r.at {
		return 0, errTimeForMap
	}
	r.at++
	return r.body[r.at-1], nil
}

// UnreadByte takes back the last ReadByte.
func (r *bodyReader) UnreadByte() error {
	r.at--
	return nil
}

// CompressAbove is the size in bytes above which [Compress] tries.
const CompressAbove = 4 << 10

// Compress returns body as one zstd frame, for Task-Encoding: zstd, and true if
// body is larger than [CompressAbove] and at least a tenth is saved. Otherwise it
// returns body itself and false.
func Compress(body []byte) ([]byte, bool) {
	if len(body) <= CompressAbove || encoderErr != nil {
		return body, false
	}
	out := encoder.EncodeAll(body, make([]byte, 0, len(body)/2))
	if len(out) > len(body)-len(body)/10 {
		return body, false
	}
	return out, true
}

// The encoder and the decoder are made at start (60 µs, 0.3 MiB), because they
// hold channels: made by the first task inside a synctest bubble, they could not
// be used outside of it.
var (
	encoder, encoderErr = newEncoder()
	decoder, decoderErr = newDecoder(defaultBytes)
)

// newEncoder takes the fastest level: the next one saves half a percent more of
// JSON for a fifth to a third of the speed and 1 MiB. Literals are always
// entropy-coded: text in which nothing repeats would otherwise stay as it is, while
// so hex shrinks to 50 % and base64 to 75 %, at 700 to 900 MB/s. JSON, 21 % at 400 to
// 600 MB/s, is the same with and without; random bytes, which stay as they are in
// any case, are given up at 1.5 GB/s instead of 2.5 (BenchmarkCompress).
func newEncoder() (*zstd.Encoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithAllLitEntropyCompression(true), zstd.WithWindowSize(512<<10))
	if err == nil {
		enc.EncodeAll([]byte{0}, nil) // makes the channel
	}
	return enc, err
}

func newDecoder(limit int) (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(uint64(limit))) // also the largest window
}

// Decompress returns what the zstd frame body holds, in at most limit bytes; a
// limit of 0 or less means 16 MiB. The error wraps [ErrBadBody] if body is not
// exactly one frame, if it holds more than limit, or not what its header says.
// It allocates at most limit and one block of 128 KiB, whatever body declares;
// under a limit below 16 MiB, a frame that does not declare its size can make it
// twice as much before it is refused. A window above 16 MiB is refused.
func Decompress(body []byte, limit int) ([]byte, error) {
	if limit <= 0 {
		limit = defaultBytes
	}
	room, err := frameRoom(body, limit)
	if err != nil {
		return nil, fmt.Errorf("%w: decompress: %w", ErrBadBody, err)
	}
	dec, err := decoder, decoderErr
	if limit > defaultBytes {
		dec, err = newDecoder(limit)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	out, err := dec.DecodeAll(body, make([]byte, 0, room))
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || len(out) > limit {
		err = tooLarge(limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: decompress: %w", ErrBadBody, err)
	}
	return out, nil
}

func tooLarge(limit int) error {
	return fmt.Errorf("more than the limit of %d bytes", limit)
}

const maxBlock = 128 << 10 // bytes that one block of a frame decompresses to at most

// frameRoom walks over the blocks of the one frame that body must be, and returns
// the bytes to allocate so that decoding never has to grow them: a decoder looks
// at its limits after each block, so there is room for one too many.
func frameRoom(body []byte, limit int) (int, error) {
	var h zstd.Header
	if err := h.Decode(body); err != nil {
		return 0, fmt.Errorf("frame header: %w", err)
	}
	if h.Skippable {
		return 0, errors.New("a skippable frame")
	}
	size, block := uint64(limit), uint64(maxBlock)
	if h.HasFCS {
		if h.FrameContentSize > uint64(limit) {
			return 0, tooLarge(limit)
		}
		size = h.FrameContentSize
	}
	if h.SingleSegment {
		block = min(block, max(size, zstd.MinWindowSize))
	}
	var sure, most uint64 // bytes that the blocks hold without doubt, and at most
	at := h.HeaderSize
	for last := false; !last; {
		if len(body)-at < 3 {
			return 0, fmt.Errorf("byte %d: the frame ends inside a block header", at)
		}
		header := uint32(binary.LittleEndian.Uint16(body[at:])) | uint32(body[at+2])<<16
		n := int(header >> 3)
		at += 3
		last = header&1 == 1
		switch header >> 1 & 3 {
		case 0: // as it is
			sure, most = sure+uint64(n), most+uint64(n)
		case 1: // one byte, n times
			sure, most = sure+uint64(n), most+uint64(n)
			n = 1
		default:
			most += block
		}
		if at += n; at > len(body) {
			return 0, fmt.Errorf("byte %d: a block of %d bytes, %d are left", at-n, n, len(body)-at+n)
		}
		if sure > uint64(limit) {
			return 0, tooLarge(limit)
		}
	}
	if h.HasFCS && size > most {
		return 0, fmt.Errorf("declares %d bytes, its blocks hold %d at most", size, most)
	}
	if h.HasCheckSum {
		at += 4
	}
	if at != len(body) {
		return 0, fmt.Errorf("byte %d: the frame ends here, the body at %d", at, len(body))
	}
	const slack = 16 // the decoder copies in words of this size
	return int(min(most, size+block)) + slack, nil
}
