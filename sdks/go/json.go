package emit

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"time"
)

const noJSON = `JSON cannot carry it; msgpack can: codec = "msgpack"`

// jsonCodec writes one object on one line.
type jsonCodec struct{}

func (jsonCodec) name() string { return "json" }

func (jsonCodec) reader(d *decoder, data []byte) {
	d.json.data, d.json.at = data, 0
	d.reader = &d.json
}

func (jsonCodec) writer(e *encoder, data []byte) {
	e.json.data = data
	e.writer = &e.json
}

// The newline in front keeps a stray print without one from gluing itself to the frame.
func (jsonCodec) frame(to, body []byte) []byte {
	to = append(append(to, '\n'), body...)
	return append(to, '\n')
}

func (jsonCodec) head(to []byte, op string, id int64) []byte {
	to = append(append(append(to, "\n{\"op\":\""...), op...), `","id":`...)
	return append(strconv.AppendInt(to, id, 10), `,"msgs":`...)
}

func (jsonCodec) list(to, values []byte, _ int) []byte {
	return append(append(append(to, '['), values...), ']')
}

func (jsonCodec) tail(to []byte, _ int) []byte { return append(to, "}\n"...) }

func (jsonCodec) separate(to []byte) []byte { return append(to, ',') }

func (jsonCodec) split(data []byte) (body, rest []byte, whole bool) {
	for {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			return nil, data, false
		}
		body, data = data[:end], data[end+1:]
		if len(body) > 0 && (body[0] == '{' || len(bytes.TrimSpace(body)) > 0) {
			return body, data, true
		}
	}
}

type jsonWriter struct{ data []byte }

func (w *jsonWriter) buffer() *[]byte      { return &w.data }
func (w *jsonWriter) null()                { w.data = append(w.data, "null"...) }
func (w *jsonWriter) bool(b bool)          { w.data = strconv.AppendBool(w.data, b) }
func (w *jsonWriter) int(n int64)          { w.data = strconv.AppendInt(w.data, n, 10) }
func (w *jsonWriter) uint(n uint64)        { w.data = strconv.AppendUint(w.data, n, 10) }
func (w *jsonWriter) bytes([]byte) error   { return refuse("is bytes: " + noJSON) }
func (w *jsonWriter) time(time.Time) error { return refuse("is a time.Time: " + noJSON) }
func (w *jsonWriter) list(int)             { w.data = append(w.data, '[') }
func (w *jsonWriter) mapping(int)          { w.data = append(w.data, '{') }
func (w *jsonWriter) endList()             { w.data = append(w.data, ']') }
func (w *jsonWriter) endMap()              { w.data = append(w.data, '}') }
func (w *jsonWriter) field(f *field)       { w.data = append(w.data, f.json...) }
func (w *jsonWriter) text(s string)        { w.data = appendJSONText(w.data, s) }
func (w *jsonWriter) key(k string)         { w.data = append(appendJSONText(w.data, k), ':') }

func (w *jsonWriter) member(first bool) {
	if !first {
		w.data = append(w.data, ',')
	}
}

func (w *jsonWriter) float(f float64) (err error) {
	w.data, err = appendJSONFloat(w.data, f)
	return err
}

// appendJSONFloat writes the shortest digits that mean f, and never an integer's.
func appendJSONFloat(to []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return to, refuse("is %v: %s", f, noJSON)
	}
	if size := math.Abs(f); size != 0 && (size < 1e-6 || size >= 1e21) {
		return strconv.AppendFloat(to, f, 'e', -1, 64), nil
	}
	start := len(to)
	to = strconv.AppendFloat(to, f, 'f', -1, 64)
	if bytes.IndexByte(to[start:], '.') < 0 {
		to = append(to, ".0"...)
	}
	return to, nil
}

func appendJSONText(to []byte, s string) []byte {
	to = append(to, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			to = appendEscape(append(to, s[start:i]...), c)
			start = i + 1
		}
	}
	return append(append(to, s[start:]...), '"')
}

func appendEscape(to []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(to, '\\', c)
	case '\n':
		return append(to, `\n`...)
	case '\r':
		return append(to, `\r`...)
	case '\t':
		return append(to, `\t`...)
	}
	return fmt.Appendf(to, `\u%04x`, c)
}
