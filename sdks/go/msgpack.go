package emit

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unicode/utf8"
)

// msgpackCodec writes a length in 4 bytes, then one map.
type msgpackCodec struct{}

func (msgpackCodec) name() string { return "msgpack" }

func (msgpackCodec) reader(d *decoder, data []byte) {
	d.packed = packedReader{data: data}
	d.reader = &d.packed
}

func (msgpackCodec) writer(e *encoder, data []byte) {
	e.packed.data = data
	e.writer = &e.packed
}

func (msgpackCodec) frame(to, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(to, uint32(len(body))), body...)
}

func (msgpackCodec) head(to []byte, op string, id int64) []byte {
	to = append(to, 0, 0, 0, 0, 0x83, 0xa2, 'o', 'p', 0xa0|byte(len(op)))
	to = append(append(to, op...), 0xa2, 'i', 'd')
	return append(appendPackedInt(to, id), 0xa4, 'm', 's', 'g', 's')
}

func (msgpackCodec) list(to, values []byte, count int) []byte {
	return append(appendSize(to, count, 0x90, 16, 0, 0xdc, 0xdd), values...)
}

func (msgpackCodec) tail(to []byte, start int) []byte {
	binary.BigEndian.PutUint32(to[start:], uint32(len(to)-start-4))
	return to
}

func (msgpackCodec) separate(to []byte) []byte { return to }

func (msgpackCodec) split(data []byte) (body, rest []byte, whole bool) {
	if len(data) < 4 {
		return nil, data, false
	}
	end := 4 + int(binary.BigEndian.Uint32(data))
	if end > len(data) {
		return nil, data, false
	}
	return data[4:end], data[end:], true
}

type packedWriter struct{ data []byte }

func (w *packedWriter) buffer() *[]byte { return &w.data }
func (w *packedWriter) null()           { w.data = append(w.data, 0xc0) }
func (w *packedWriter) int(n int64)     { w.data = appendPackedInt(w.data, n) }
func (w *packedWriter) uint(n uint64)   { w.data = appendPackedUint(w.data, n) }
func (w *packedWriter) text(s string)   { w.data = appendPackedText(w.data, s) }
func (w *packedWriter) key(k string)    { w.data = appendPackedText(w.data, k) }
func (w *packedWriter) list(size int)   { w.data = appendSize(w.data, size, 0x90, 16, 0, 0xdc, 0xdd) }
func (w *packedWriter) mapping(size int) {
	w.data = appendSize(w.data, size, 0x80, 16, 0, 0xde, 0xdf)
}
func (w *packedWriter) endList()       {}
func (w *packedWriter) endMap()        {}
func (w *packedWriter) member(bool)    {}
func (w *packedWriter) field(f *field) { w.data = append(w.data, f.packed...) }

func (w *packedWriter) bool(b bool) {
	if b {
		w.data = append(w.data, 0xc3)
	} else {
		w.data = append(w.data, 0xc2)
	}
}

func (w *packedWriter) float(f float64) error {
	w.data = binary.BigEndian.AppendUint64(append(w.data, 0xcb), math.Float64bits(f))
	return nil
}

func (w *packedWriter) bytes(b []byte) error {
	w.data = append(appendSize(w.data, len(b), 0, 0, 0xc4, 0xc5, 0xc6), b...)
	return nil
}

func (w *packedWriter) time(t time.Time) error {
	seconds, nanos := t.Unix(), uint64(t.Nanosecond())
	switch {
	case seconds>>34 != 0:
		w.data = binary.BigEndian.AppendUint32(append(w.data, 0xc7, 12, 0xff), uint32(nanos))
		w.data = binary.BigEndian.AppendUint64(w.data, uint64(seconds))
	case nanos != 0 || seconds>>32 != 0:
		w.data = binary.BigEndian.AppendUint64(append(w.data, 0xd7, 0xff), nanos<<34|uint64(seconds))
	default:
		w.data = binary.BigEndian.AppendUint32(append(w.data, 0xd6, 0xff), uint32(seconds))
	}
	return nil
}

func appendPackedText(to []byte, s string) []byte {
	return append(appendSize(to, len(s), 0xa0, 32, 0xd9, 0xda, 0xdb), s...)
}

// appendSize writes a head: in one byte below few, else as one of the types of 1, 2 and 4 bytes. A
// type of 0 does not exist.
func appendSize(to []byte, size int, fix byte, few int, one, two, four byte) []byte {
	switch {
	case size < few:
		return append(to, fix|byte(size))
	case size < 1<<8 && one != 0:
		return append(to, one, byte(size))
	case size < 1<<16:
		return append(to, two, byte(size>>8), byte(size))
	}
	return binary.BigEndian.AppendUint32(append(to, four), uint32(size))
}

func appendPackedInt(to []byte, n int64) []byte {
	switch {
	case n >= 0:
		return appendPackedUint(to, uint64(n))
	case n >= -32:
		return append(to, byte(n))
	case n >= math.MinInt8:
		return append(to, 0xd0, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(to, 0xd1), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(to, 0xd2), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(to, 0xd3), uint64(n))
}

func appendPackedUint(to []byte, n uint64) []byte {
	switch {
	case n < 1<<7:
		return append(to, byte(n))
	case n < 1<<8:
		return append(to, 0xcc, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(to, 0xcd), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(to, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(to, 0xcf), n)
}

// A packedReader reads msgpack. A token's size is the number of remaining members.
type packedReader struct {
	data  []byte
	at    int
	short bool // the data ended too early
}

func (r *packedReader) rest() int { return len(r.data) - r.at }

func (r *packedReader) more(size int) (int, bool, error) { return size - 1, size > 0, nil }

func (r *packedReader) key() ([]byte, error) {
	if r.at < len(r.data) && r.data[r.at]&0xe0 == 0xa0 { // nearly all: up to 31 bytes, in ASCII
		start := r.at + 1
		end := start + int(r.data[r.at]&0x1f)
		if end <= len(r.data) && isASCII(r.data[start:end]) {
			r.at = end
			return r.data[start:end], nil
		}
	}
	var t token
	if err := r.next(&t); err != nil {
		return nil, err
	}
	if t.kind != isText {
		return nil, malformed("a key in it is " + kindNames[t.kind] + ", not text")
	}
	return t.bytes, nil
}

func isASCII(text []byte) bool {
	for _, c := range text {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func (r *packedReader) next(t *token) error {
	if r.at >= len(r.data) {
		return malformed("it is no msgpack: it ends too early")
	}
	c := r.data[r.at]
	r.at++
	switch {
	case c < 0x80:
		t.kind, t.bits = isInt, uint64(c)
	case c >= 0xe0:
		t.kind, t.bits = isInt, uint64(int8(c))
	case c >= 0xa0 && c < 0xc0:
		return r.text(t, int(c&0x1f))
	case c < 0x90:
		return r.container(t, isMap, uint64(c&0x0f))
	case c < 0xa0:
		return r.container(t, isList, uint64(c&0x0f))
	default:
		return r.long(t, c)
	}
	return nil
}

// long reads the types whose size or value is in the bytes after the first.
func (r *packedReader) long(t *token, c byte) (err error) {
	switch {
	case c == 0xc0:
		t.kind = isNull
	case c == 0xc2 || c == 0xc3:
		t.kind, t.bits = isBool, uint64(c&1)
	case c >= 0xc4 && c <= 0xc6:
		t.kind = isBytes
		t.bytes, err = r.take(r.number(1 << (c - 0xc4)))
	case c >= 0xd9 && c <= 0xdb:
		return r.text(t, int(r.number(1<<(c-0xd9))))
	case c == 0xdc || c == 0xdd:
		return r.container(t, isList, r.number(2<<(c-0xdc)))
	case c == 0xde || c == 0xdf:
		return r.container(t, isMap, r.number(2<<(c-0xde)))
	case c >= 0xc7 && c <= 0xc9:
		return r.extension(t, r.number(1<<(c-0xc7)))
	case c >= 0xd4 && c <= 0xd8:
		return r.extension(t, 1<<(c-0xd4))
	case c == 0xc1:
		return malformed("it is no msgpack: the type C1")
	default:
		return r.numeric(t, c)
	}
	return r.enough(err)
}

func (r *packedReader) numeric(t *token, c byte) error {
	switch {
	case c == 0xca:
		t.kind, t.float = isFloat, float64(math.Float32frombits(uint32(r.number(4))))
	case c == 0xcb:
		t.kind, t.float = isFloat, math.Float64frombits(r.number(8))
	case c <= 0xcf:
		t.kind, t.bits = isInt, r.number(1<<(c-0xcc))
		if t.bits > math.MaxInt64 {
			t.kind = isUint
		}
	default:
		size := 1 << (c - 0xd0)
		shift := 64 - 8*size // puts the sign where it belongs
		t.kind, t.bits = isInt, uint64(int64(r.number(size)<<shift)>>shift)
	}
	return r.enough(nil)
}

func (r *packedReader) enough(err error) error {
	if r.short {
		return malformed("it is no msgpack: it ends too early")
	}
	return err
}

func (r *packedReader) number(size int) (n uint64) {
	raw, err := r.take(uint64(size))
	r.short = r.short || err != nil
	for _, c := range raw {
		n = n<<8 | uint64(c)
	}
	return n
}

func (r *packedReader) take(size uint64) ([]byte, error) {
	if size > uint64(len(r.data)-r.at) {
		return nil, malformed("it is no msgpack: it ends too early")
	}
	start := r.at
	r.at += int(size)
	return r.data[start:r.at], nil
}

func (r *packedReader) text(t *token, size int) (err error) {
	t.kind = isText
	if t.bytes, err = r.take(uint64(size)); err != nil {
		return err
	}
	if !utf8.Valid(t.bytes) {
		return malformed("a text in it is no valid UTF-8")
	}
	return r.enough(nil)
}

func (r *packedReader) container(t *token, k kind, size uint64) error {
	t.kind, t.size = k, int(size)
	if size > maxMembers {
		return malformed(fmt.Sprintf("it has more than %d members", maxMembers))
	}
	return r.enough(nil)
}

// extension reads the only supported type, -1: an instant.
func (r *packedReader) extension(t *token, size uint64) error {
	code := int8(r.number(1))
	raw, err := r.take(size)
	if err = r.enough(err); err != nil {
		return err
	}
	if code != -1 {
		return malformed(fmt.Sprintf("it holds extension type %d; only timestamps (-1) are values", code))
	}
	t.kind = isTime
	var seconds, nanos int64
	switch size {
	case 4:
		seconds = int64(binary.BigEndian.Uint32(raw))
	case 8:
		both := binary.BigEndian.Uint64(raw)
		seconds, nanos = int64(both&(1<<34-1)), int64(both>>34)
	case 12:
		nanos, seconds = int64(binary.BigEndian.Uint32(raw)), int64(binary.BigEndian.Uint64(raw[4:]))
	default:
		return malformed(fmt.Sprintf("it holds a timestamp of %d bytes", size))
	}
	if nanos > 999_999_999 {
		return malformed("it holds a timestamp with more than a second of nanoseconds")
	}
	t.time = time.Unix(seconds, nanos).UTC()
	return nil
}
