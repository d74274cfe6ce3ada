package emit

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A jsonReader reads JSON strictly: anything beyond RFC 8259, and invalid text, is malformed.
type jsonReader struct {
	data    []byte
	at      int
	scratch []byte // text after its escapes are replaced
}

// The sizes of a list's and a map's token: which of the two it is, and whether at its first member.
const (
	listStart = -1
	listOn    = -2
	mapStart  = -3
	mapOn     = -4
)

func (r *jsonReader) rest() int { r.space(); return len(r.data) - r.at }

func (r *jsonReader) space() {
	for r.at < len(r.data) {
		switch r.data[r.at] {
		case ' ', '\t', '\n', '\r':
			r.at++
		default:
			return
		}
	}
}

// peek skips space, and returns the byte there; 0 at the end.
func (r *jsonReader) peek() byte {
	if r.at < len(r.data) && r.data[r.at] > ' ' {
		return r.data[r.at]
	}
	if r.space(); r.at < len(r.data) {
		return r.data[r.at]
	}
	return 0
}

func (r *jsonReader) wrong(wanted string) error {
	if r.at >= len(r.data) {
		return malformed("it is no JSON: it ends where " + wanted + " is due")
	}
	return malformed(fmt.Sprintf("it is no JSON: %q at byte %d, where %s is due", r.data[r.at], r.at, wanted))
}

func (r *jsonReader) next(t *token) (err error) {
	switch c := r.peek(); {
	case c == '"':
		t.kind = isText
		t.bytes, err = r.text()
	case c == '-' || (c >= '0' && c <= '9'):
		err = r.number(t)
	case c == '{':
		r.at++
		t.kind, t.size = isMap, mapStart
	case c == '[':
		r.at++
		t.kind, t.size = isList, listStart
	case c == 't':
		t.kind, t.bits, err = isBool, 1, r.word("true")
	case c == 'f':
		t.kind, t.bits, err = isBool, 0, r.word("false")
	case c == 'n':
		t.kind, err = isNull, r.word("null")
	default:
		err = r.wrong("a value")
	}
	return err
}

func (r *jsonReader) word(word string) error {
	if !bytes.HasPrefix(r.data[r.at:], []byte(word)) {
		return r.wrong(word)
	}
	r.at += len(word)
	return nil
}

func (r *jsonReader) more(size int) (int, bool, error) {
	c, end := r.peek(), byte(']')
	if size <= mapStart {
		end = '}'
	}
	switch {
	case c == end:
		r.at++
		return size, false, nil
	case size == listStart || size == mapStart:
		return size - 1, true, nil
	case c == ',':
		r.at++
		return size, true, nil
	}
	return size, false, r.wrong("a comma or " + string(end))
}

func (r *jsonReader) key() ([]byte, error) {
	if r.peek() != '"' {
		return nil, r.wrong("a key")
	}
	key, err := r.text()
	if err == nil && r.peek() != ':' {
		err = r.wrong("a colon")
	}
	r.at++
	return key, err
}

func (r *jsonReader) number(t *token) error {
	start, fraction := r.at, false
	if r.data[r.at] == '-' {
		r.at++
	}
	first := r.at
	if n := r.digits(); n == 0 || (n > 1 && r.data[first] == '0') {
		return r.wrong("a number")
	}
	if r.at < len(r.data) && r.data[r.at] == '.' {
		fraction = true
		r.at++
		if r.digits() == 0 {
			return r.wrong("a digit")
		}
	}
	if r.at < len(r.data) && r.data[r.at]|0x20 == 'e' {
		fraction = true
		if r.at++; r.at < len(r.data) && (r.data[r.at] == '+' || r.data[r.at] == '-') {
			r.at++
		}
		if r.digits() == 0 {
			return r.wrong("a digit")
		}
	}
	return t.number(r.data[start:r.at], fraction)
}

func (r *jsonReader) digits() int {
	start := r.at
	for r.at < len(r.data) && r.data[r.at]-'0' < 10 {
		r.at++
	}
	return r.at - start
}

func (t *token) number(digits []byte, fraction bool) (err error) {
	if !fraction && len(digits) < 19 {
		t.kind, t.bits = isInt, shortInt(digits)
		return nil
	}
	text := string(digits)
	if fraction {
		t.kind = isFloat
		if t.float, err = strconv.ParseFloat(text, 64); err != nil {
			return malformed("a float in it is too large")
		}
		return nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		t.kind, t.bits = isInt, uint64(n)
		return nil
	}
	t.kind = isUint
	if t.bits, err = strconv.ParseUint(text, 10, 64); err != nil {
		return malformed("an integer in it is beyond 64 bits")
	}
	return nil
}

func shortInt(digits []byte) uint64 {
	n, negative := int64(0), digits[0] == '-'
	if negative {
		digits = digits[1:]
	}
	for _, c := range digits {
		n = n*10 + int64(c-'0')
	}
	if negative {
		n = -n
	}
	return uint64(n)
}

func (r *jsonReader) text() ([]byte, error) {
	r.at++
	ascii := true
	for i := r.at; i < len(r.data); i++ {
		switch c := r.data[i]; {
		case c == '"':
			text := r.data[r.at:i]
			r.at = i + 1
			return text, valid(text, ascii)
		case c == '\\':
			return r.escaped(i)
		case c < ' ':
			r.at = i
			return nil, r.wrong("text without control characters")
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	r.at = len(r.data)
	return nil, r.wrong("a quote")
}

func valid(text []byte, ascii bool) error {
	if ascii || utf8.Valid(text) {
		return nil
	}
	return malformed("a text in it is no valid UTF-8")
}

// escaped reads on in a text whose first backslash is at i.
func (r *jsonReader) escaped(i int) ([]byte, error) {
	r.scratch = append(r.scratch[:0], r.data[r.at:i]...)
	for r.at = i; r.at < len(r.data); {
		switch c := r.data[r.at]; {
		case c == '"':
			r.at++
			return r.scratch, valid(r.scratch, false)
		case c == '\\':
			if err := r.escape(); err != nil {
				return nil, err
			}
		case c < ' ':
			return nil, r.wrong("text without control characters")
		default:
			r.scratch = append(r.scratch, c)
			r.at++
		}
	}
	return nil, r.wrong("a quote")
}

func (r *jsonReader) escape() error {
	r.at++
	if r.at == len(r.data) {
		return r.wrong("an escape")
	}
	c := r.data[r.at]
	at := bytes.IndexByte([]byte(`"\/bfnrt`), c)
	switch {
	case at >= 0:
		r.at++
		r.scratch = append(r.scratch, "\"\\/\b\f\n\r\t"[at])
		return nil
	case c != 'u':
		return r.wrong("an escape")
	}
	first, err := r.unit()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(first) {
		if first, err = r.pair(first); err != nil {
			return err
		}
	}
	r.scratch = utf8.AppendRune(r.scratch, first)
	return nil
}

// unit reads u and four hexadecimal digits.
func (r *jsonReader) unit() (rune, error) {
	if r.at+5 > len(r.data) {
		r.at = len(r.data)
		return 0, r.wrong("an escape")
	}
	n, err := strconv.ParseUint(string(r.data[r.at+1:r.at+5]), 16, 32)
	if err != nil {
		return 0, r.wrong("an escape")
	}
	r.at += 5
	return rune(n), nil
}

func (r *jsonReader) pair(first rune) (rune, error) {
	if bytes.HasPrefix(r.data[r.at:], []byte(`\u`)) {
		r.at++
		second, err := r.unit()
		if both := utf16.DecodeRune(first, second); err != nil || both != utf8.RuneError {
			return both, err
		}
	}
	return 0, malformed("a text in it holds a lone surrogate")
}
