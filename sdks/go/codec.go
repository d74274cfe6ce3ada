package emit

import (
	"fmt"
	"reflect"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Values to bytes and back, exactly or not at all. A walk over Go values (encode.go, decode.go, and
// fit.go for the author's types) drives one of two formats (json.go with json_reader.go, and
// msgpack.go). The facts about a type are found out once (types.go).
//
// encoding/json changes too much: it turns bytes into base64, instants into text, 3.0 into 3, every
// number in an any into float64 and broken text into U+FFFD, and refuses 3.0 for an int.

const (
	maxDepth   = 128       // Levels of lists and maps in a message or a result.
	maxMembers = 1_000_000 // Members of lists and maps in a frame, all levels together.
)

// A kind is the type of a value on the wire.
type kind uint8

const (
	isNull kind = iota
	isBool
	isInt
	isUint // an integer beyond int64
	isFloat
	isText
	isBytes
	isTime
	isList
	isMap
)

var kindNames = [...]string{
	"null", "a bool", "an integer", "an integer", "a float", "text", "bytes", "an instant", "a list", "a map",
}

// A token is a scalar, or the beginning of a list or a map.
type token struct {
	kind  kind
	size  int    // of a list or map, in the format's own terms, for reader.more
	bits  uint64 // of a bool, isInt (as an int64) or isUint
	float float64
	bytes []byte // of text or bytes, until the next read
	time  time.Time
}

// A reader takes the bytes of one value apart.
type reader interface {
	next(t *token) error
	// more reports whether a list or map has another member. Its size is first the token's, then the
	// value that the last call has returned.
	more(size int) (left int, ok bool, err error)
	key() ([]byte, error)
	rest() int // bytes that have not been read yet
}

// A writer puts the bytes of values together.
type writer interface {
	null()
	bool(b bool)
	int(n int64)
	uint(n uint64)
	float(f float64) error
	text(s string) // must be valid, as keys are
	bytes(b []byte) error
	time(t time.Time) error
	list(size int)
	mapping(size int)
	member(first bool) // comes before each member of a list, and before each key
	key(k string)
	field(f *field) // the key of a struct's field, known to be valid
	endList()
	endMap()
	buffer() *[]byte
}

// A codec is one of the two formats, with the methods that frames need.
type codec interface {
	name() string
	reader(d *decoder, data []byte) // sets it to the beginning of data
	writer(e *encoder, data []byte) // sets it to the end of data
	// frame appends a frame around a body that is encoded already.
	frame(to, body []byte) []byte
	// head appends the beginning of an out, end or ends frame, up to its list; tail, which gets the
	// place where the frame begins, the rest.
	head(to []byte, op string, id int64) []byte
	tail(to []byte, start int) []byte
	// list appends a list around encoded values.
	list(to, values []byte, count int) []byte
	// separate appends the separator of two results.
	separate(to []byte) []byte
	// split cuts the first frame off data; all results are nil until it is whole.
	split(data []byte) (body, rest []byte, whole bool)
}

// An EncodeError reports a result that the wire cannot carry unchanged.
type EncodeError struct {
	Path   string // to the culprit, from the result on: .items[3].price
	Reason string
}

func (e *EncodeError) Error() string { return "result" + e.Path + " " + e.Reason }

func refuse(format string, args ...any) *EncodeError {
	return &EncodeError{Reason: fmt.Sprintf(format, args...)}
}

// step returns a key as a step of a path. A key that may be data, such as an address, is replaced
// by its length: the text ends in logs.
func step(key string) string {
	digits, fits := 0, key != "" && utf8.RuneCountInString(key) <= 40
	for at, c := range key {
		if unicode.IsDigit(c) {
			digits++
		}
		fits = fits && (unicode.IsLetter(c) || c == '_' || at > 0 && (unicode.IsDigit(c) || c == '-'))
	}
	if !fits || digits > 4 {
		return fmt.Sprintf("[a key of %d bytes]", len(key))
	}
	return "." + key
}

// within puts a step in front of the path of an error.
func within(err error, step string) error {
	if e, ok := err.(*EncodeError); ok && len(e.Path) < 80 {
		e.Path = step + e.Path
	}
	return err
}

// Encoders and decoders are reused: making one costs as much as using it.
var (
	encoders = sync.Pool{New: func() any { return new(encoder) }}
	decoders = sync.Pool{New: func() any { return new(decoder) }}
)

// results appends an out, end or ends frame around encoded values.
func results(c codec, to []byte, op string, id int64, values []byte, count int) []byte {
	start := len(to)
	return c.tail(c.list(c.head(to, op, id), values, count), start)
}

// encode appends value to data.
func encode(c codec, data []byte, value any) ([]byte, error) {
	e := encoders.Get().(*encoder)
	c.writer(e, data)
	e.members = 0
	err := e.value(value, maxDepth)
	if err == nil && e.members > maxMembers-100 { // some for the frame itself
		err = refuse("has over %d members", maxMembers-100)
	}
	data = *e.buffer()
	*e.buffer() = nil
	encoders.Put(e)
	return data, err
}

func newDecoder(c codec, data []byte) *decoder {
	d := decoders.Get().(*decoder)
	c.reader(d, data)
	d.members = 0
	return d
}

// free releases the data; d must not be used afterwards.
func (d *decoder) free() {
	d.json.data, d.packed.data, d.token.bytes = nil, nil, nil
	decoders.Put(d)
}

// decode reads data, one whole value, into the variable that target points to.
func decode(c codec, data []byte, target any) error {
	d := newDecoder(c, data)
	defer d.free()
	err := d.target(target)
	if err == nil && d.rest() > 0 {
		return malformed("there is something after the value")
	}
	return err
}

// A malformed value is not a value of the wire, whatever its target.
type malformed string

func (m malformed) Error() string { return string(m) }

func typeOf[T any]() reflect.Type { return reflect.TypeOf((*T)(nil)).Elem() }
