package emit

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

type encoder struct {
	writer  // one of these two
	json    jsonWriter
	packed  packedWriter
	members int
}

// value writes any value; the types that decoding makes need no reflection.
func (e *encoder) value(value any, levels int) error {
	switch v := value.(type) {
	case nil:
		e.null()
	case bool:
		e.bool(v)
	case int:
		e.int(int64(v))
	case int64:
		e.int(v)
	case uint64:
		e.uint(v)
	case float64:
		return e.float(v)
	case string:
		return e.text(v)
	case []byte:
		return e.blob(v)
	case time.Time:
		return e.time(v)
	case []any:
		return e.anyList(v, levels)
	case map[string]any:
		return e.anyMap(v, levels)
	default:
		v2 := reflect.ValueOf(value)
		return e.reflected(v2, planOf(v2.Type()), levels)
	}
	return nil
}

func (e *encoder) blob(b []byte) error {
	if b == nil {
		e.null()
		return nil
	}
	return e.bytes(b)
}

func (e *encoder) text(s string) error {
	if !utf8.ValidString(s) {
		return refuse("is no valid text: it holds bytes that are no UTF-8")
	}
	e.writer.text(s)
	return nil
}

func (e *encoder) key(k string) error {
	if !utf8.ValidString(k) {
		return refuse("has a key of %d bytes which is no valid text: it holds bytes that are no UTF-8", len(k))
	}
	e.writer.key(k)
	return nil
}

// open counts a list or map as one level, and refuses one level too many.
func (e *encoder) open(size, levels int) error {
	if e.members += size; levels == 0 {
		return refuse("nests deeper than %d levels", maxDepth)
	}
	return nil
}

func (e *encoder) anyList(list []any, levels int) error {
	if list == nil {
		e.null()
		return nil
	}
	if err := e.open(len(list), levels); err != nil {
		return err
	}
	e.list(len(list))
	for i, item := range list {
		e.member(i == 0)
		if err := e.value(item, levels-1); err != nil {
			return within(err, "["+strconv.Itoa(i)+"]")
		}
	}
	e.endList()
	return nil
}

func (e *encoder) anyMap(m map[string]any, levels int) error {
	if m == nil {
		e.null()
		return nil
	}
	if err := e.open(len(m), levels); err != nil {
		return err
	}
	e.mapping(len(m))
	first := true
	for key, item := range m {
		e.member(first)
		first = false
		if err := e.key(key); err != nil {
			return err
		}
		if err := e.value(item, levels-1); err != nil {
			return within(err, step(key))
		}
	}
	e.endMap()
	return nil
}

func (e *encoder) reflected(v reflect.Value, p *plan, levels int) error {
	if p.custom.marshal || p.custom.marshalText {
		return e.marshaler(v, p, levels)
	}
	switch p.shape {
	case boolShape:
		e.bool(v.Bool())
	case intShape:
		e.int(v.Int())
	case uintShape:
		e.uint(v.Uint())
	case floatShape:
		return e.float(v.Float())
	case textShape:
		return e.text(v.String())
	case bytesShape:
		return e.blob(v.Bytes())
	case byteArrayShape:
		return e.bytes(arrayBytes(v))
	case timeShape:
		return e.time(v.Interface().(time.Time))
	case numberShape:
		return e.marshaled([]byte(v.String()), p, 0)
	default:
		return e.container(v, p, levels)
	}
	return nil
}

func (e *encoder) container(v reflect.Value, p *plan, levels int) error {
	switch p.shape {
	case listShape, arrayShape:
		return e.reflectedList(v, p, levels)
	case mapShape:
		return e.reflectedMap(v, p, levels)
	case structShape:
		return e.structure(v, p, levels)
	case pointerShape:
		if v.IsNil() {
			e.null()
			return nil
		}
		return e.reflected(v.Elem(), p.elem, levels)
	case anyShape:
		if v.IsNil() {
			e.null()
			return nil
		}
		return e.value(v.Elem().Interface(), levels)
	}
	return refuse("is a %s, which no codec carries", p.goType)
}

func arrayBytes(v reflect.Value) []byte {
	b := make([]byte, v.Len())
	reflect.Copy(reflect.ValueOf(b), v)
	return b
}

func (e *encoder) reflectedList(v reflect.Value, p *plan, levels int) error {
	if p.shape == listShape && v.IsNil() {
		e.null()
		return nil
	}
	size := v.Len()
	if err := e.open(size, levels); err != nil {
		return err
	}
	e.list(size)
	for i := 0; i < size; i++ {
		e.member(i == 0)
		if err := e.reflected(v.Index(i), p.elem, levels-1); err != nil {
			return within(err, "["+strconv.Itoa(i)+"]")
		}
	}
	e.endList()
	return nil
}

func (e *encoder) reflectedMap(v reflect.Value, p *plan, levels int) error {
	if v.IsNil() {
		e.null()
		return nil
	}
	if p.goType.Key().Kind() != reflect.String {
		return e.refuseKeys(v)
	}
	if err := e.open(v.Len(), levels); err != nil {
		return err
	}
	e.mapping(v.Len())
	first := true
	for each := v.MapRange(); each.Next(); first = false {
		key := each.Key().String()
		e.member(first)
		if err := e.key(key); err != nil {
			return err
		}
		if err := e.reflected(each.Value(), p.elem, levels-1); err != nil {
			return within(err, step(key))
		}
	}
	e.endMap()
	return nil
}

func (e *encoder) refuseKeys(v reflect.Value) error {
	if v.Len() > 0 {
		return refuse("has keys of type %s; a key must be text", v.Type().Key())
	}
	e.mapping(0)
	e.endMap()
	return nil
}

func (e *encoder) structure(v reflect.Value, p *plan, levels int) error {
	fields := p.fields
	if p.mayOmit {
		fields = slices.Clone(fields)
		fields = slices.DeleteFunc(fields, func(f *field) bool { return f.left(v) })
	}
	if err := e.open(len(fields), levels); err != nil {
		return err
	}
	e.mapping(len(fields))
	for i, f := range fields {
		e.member(i == 0)
		e.field(f)
		if err := e.fieldValue(f.of(v), f, levels-1); err != nil {
			return within(err, "."+f.name)
		}
	}
	e.endMap()
	return nil
}

func (e *encoder) fieldValue(v reflect.Value, f *field, levels int) error {
	if !v.IsValid() { // in an embedded struct that is nil
		e.null()
		return nil
	}
	if f.asString && f.plan.shape >= boolShape && f.plan.shape <= floatShape {
		return e.text(fmt.Sprint(v.Interface()))
	}
	return e.reflected(v, f.plan, levels)
}

// of returns the field of a struct, or the zero Value if an embedded pointer on the way is nil.
func (f *field) of(v reflect.Value) reflect.Value {
	if len(f.index) == 1 {
		return v.Field(f.index[0])
	}
	v, _ = v.FieldByIndexErr(f.index)
	return v
}

// left reports whether omitempty or omitzero leaves a field out.
func (f *field) left(whole reflect.Value) bool {
	v := f.of(whole)
	switch {
	case !v.IsValid():
		return true
	case f.omitZero:
		return v.IsZero()
	case !f.omit:
		return false
	}
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// marshaler writes a value by its type's own methods, as encoding/json would.
func (e *encoder) marshaler(v reflect.Value, p *plan, levels int) error {
	if (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.IsNil() {
		e.null()
		return nil
	}
	pointer := reflect.New(p.goType)
	pointer.Elem().Set(v)
	if !p.custom.marshal {
		text, err := pointer.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil {
			return refuse("is a %s that fails to marshal: %v", p.goType, err)
		}
		return e.text(string(text))
	}
	data, err := pointer.Interface().(json.Marshaler).MarshalJSON()
	if err != nil {
		return refuse("is a %s that fails to marshal: %v", p.goType, err)
	}
	return e.marshaled(data, p, levels)
}

// marshaled writes a value that is given in JSON.
func (e *encoder) marshaled(data []byte, p *plan, levels int) error {
	var value any
	if err := decode(jsonCodec{}, data, &value); err != nil {
		if _, ok := new(big.Int).SetString(string(data), 10); ok {
			return refuse("is an integer beyond 64 bits; emit it as text")
		}
		return refuse("is a %s that marshals to no value: %v", p.goType, err)
	}
	return e.value(value, levels)
}
