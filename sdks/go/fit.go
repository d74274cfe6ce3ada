package emit

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
)

// A misfit is a valid value that does not fit its target type.
type misfit struct{ path, reason, text string }

func (m *misfit) Error() string {
	if m.text != "" {
		return m.text
	}
	return "message" + m.path + " " + m.reason
}

func inside(err error, step string) error {
	if m, ok := err.(*misfit); ok {
		m.path = step + m.path
	}
	return err
}

func (d *decoder) misfit(p *plan) error {
	return &misfit{reason: fmt.Sprintf("is %s, which does not fit %s", d.describe(), p.goType)}
}

// describe never quotes a value: it may be large, and it may be secret.
func (d *decoder) describe() string {
	switch d.kind {
	case isInt:
		if n := int64(d.bits); n < 0 {
			return digits("a negative integer", uint64(-n))
		}
		return digits("an integer", d.bits)
	case isUint:
		return digits("an integer", d.bits)
	case isFloat:
		return "a float"
	}
	return kindNames[d.kind]
}

func digits(what string, n uint64) string {
	count := len(strconv.FormatUint(n, 10))
	if count == 1 {
		return what + " of 1 digit"
	}
	return fmt.Sprintf("%s of %d digits", what, count)
}

func (d *decoder) into(v reflect.Value, p *plan, levels int) error {
	if err := d.next(&d.token); err != nil {
		return err
	}
	return d.assign(v, p, levels)
}

func (d *decoder) assign(v reflect.Value, p *plan, levels int) error {
	if p.custom.unmarshal || (p.custom.unmarshalText && d.kind == isText) {
		return d.unmarshaler(v, p, levels)
	}
	if d.kind == isNull {
		return d.assignNull(v, p)
	}
	switch p.shape {
	case boolShape:
		return d.check(d.kind == isBool, p, func() { v.SetBool(d.bits != 0) })
	case textShape:
		return d.check(d.kind == isText, p, func() { v.SetString(string(d.bytes)) })
	case timeShape:
		return d.check(d.kind == isTime, p, func() { v.Set(reflect.ValueOf(d.time)) })
	case intShape:
		n, ok := d.asInt()
		return d.check(ok && !v.OverflowInt(n), p, func() { v.SetInt(n) })
	case uintShape:
		n, ok := d.asUint()
		return d.check(ok && !v.OverflowUint(n), p, func() { v.SetUint(n) })
	case floatShape:
		f, ok := d.asFloat()
		return d.check(ok && !(v.OverflowFloat(f) && !math.IsInf(f, 0)), p, func() { v.SetFloat(f) })
	case numberShape:
		digits, ok := d.asDigits()
		return d.check(ok, p, func() { v.SetString(digits) })
	}
	return d.assignContainer(v, p, levels)
}

func (d *decoder) check(fits bool, p *plan, set func()) error {
	if !fits {
		return d.misfit(p)
	}
	set()
	return nil
}

func (d *decoder) assignNull(v reflect.Value, p *plan) error {
	switch p.shape {
	case pointerShape, anyShape, listShape, mapShape, bytesShape:
		v.SetZero()
		return nil
	}
	return d.misfit(p)
}

func (d *decoder) assignContainer(v reflect.Value, p *plan, levels int) error {
	list := p.shape == listShape || p.shape == arrayShape
	switch {
	case p.shape == anyShape && v.NumMethod() == 0:
		value, err := d.current(levels)
		if err == nil && value != nil {
			v.Set(reflect.ValueOf(value))
		}
		return err
	case p.shape == pointerShape:
		v.Set(reflect.New(p.elem.goType))
		return d.assign(v.Elem(), p.elem, levels)
	case p.shape == bytesShape && d.kind == isBytes:
		v.SetBytes(append([]byte{}, d.bytes...))
	case p.shape == byteArrayShape && d.kind == isBytes && v.Len() == len(d.bytes):
		reflect.Copy(v, reflect.ValueOf(d.bytes))
	case list && d.kind == isList:
		return d.assignList(v, p, levels)
	case p.shape == mapShape && d.kind == isMap && p.goType.Key().Kind() == reflect.String:
		return d.assignMap(v, p, levels)
	case p.shape == structShape && d.kind == isMap:
		return d.assignStruct(v, p, levels)
	default:
		return d.misfit(p)
	}
	return nil
}

func (d *decoder) assignList(v reflect.Value, p *plan, levels int) error {
	size := d.size
	if p.shape == listShape {
		v.Set(reflect.MakeSlice(p.goType, 0, min(max(size, 0), 64)))
	}
	for i := 0; ; i++ {
		left, more, err := d.another(size, levels)
		if err != nil {
			return err
		}
		if p.shape == arrayShape && more == (i == v.Len()) {
			return &misfit{reason: fmt.Sprintf("is a list of another length than %s", p.goType)}
		}
		if !more {
			return nil
		}
		size = left
		if p.shape == listShape {
			v.Grow(1)
			v.SetLen(i + 1)
		}
		if err := d.into(v.Index(i), p.elem, levels-1); err != nil {
			return inside(err, "["+strconv.Itoa(i)+"]")
		}
	}
}

func (d *decoder) assignMap(v reflect.Value, p *plan, levels int) error {
	size := d.size
	v.Set(reflect.MakeMap(p.goType))
	for {
		left, more, err := d.another(size, levels)
		if err != nil || !more {
			return err
		}
		size = left
		raw, err := d.key()
		if err != nil {
			return err
		}
		key := string(raw)
		item := reflect.New(p.elem.goType).Elem()
		if err := d.into(item, p.elem, levels-1); err != nil {
			return inside(err, step(key))
		}
		v.SetMapIndex(reflect.ValueOf(key).Convert(p.goType.Key()), item)
	}
}

func (d *decoder) assignStruct(v reflect.Value, p *plan, levels int) error {
	size := d.size
	var room [16]bool
	seen := room[:]
	if len(p.fields) > len(room) {
		seen = make([]bool, len(p.fields))
	}
	for {
		left, more, err := d.another(size, levels)
		if err != nil {
			return err
		}
		if !more {
			return p.missing(seen)
		}
		size = left
		key, err := d.key()
		if err != nil {
			return err
		}
		f := p.find(key)
		if f == nil {
			err = d.skip(levels - 1)
		} else {
			seen[f.at] = true
			err = inside(d.assignField(f.make(v), f, levels-1), "."+f.name)
		}
		if err != nil {
			return err
		}
	}
}

// missing refuses a struct that lacks a required field: a silent 0 would pass for a value.
func (p *plan) missing(seen []bool) error {
	for i, f := range p.fields {
		if !seen[i] && !f.optional() {
			return &misfit{reason: fmt.Sprintf("lacks %q", f.name)}
		}
	}
	return nil
}

func (d *decoder) assignField(v reflect.Value, f *field, levels int) error {
	if err := d.next(&d.token); err != nil {
		return err
	}
	if d.kind == isNull && f.optional() {
		v.SetZero()
		return nil
	}
	if f.asString && d.kind == isText && f.plan.shape >= boolShape && f.plan.shape <= floatShape {
		if decode(jsonCodec{}, d.bytes, v.Addr().Interface()) != nil {
			return d.misfit(f.plan)
		}
		return nil
	}
	if f.plan.shape >= listShape {
		v.SetZero() // a key given twice: only the last value counts
	}
	return d.assign(v, f.plan, levels)
}

// make returns the field of a struct, and makes the embedded pointers on the way.
func (f *field) make(v reflect.Value) reflect.Value {
	for i, at := range f.index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(at)
	}
	return v
}

// asInt takes 3.0 for 3, since some languages have only floats; it refuses 3.5.
func (d *decoder) asInt() (int64, bool) {
	if d.kind == isFloat {
		n := int64(d.float)
		return n, d.float >= -1<<63 && d.float < 1<<63 && float64(n) == d.float
	}
	return int64(d.bits), d.kind == isInt
}

func (d *decoder) asUint() (uint64, bool) {
	if d.kind == isFloat {
		n := uint64(max(d.float, 0))
		return n, d.float >= 0 && d.float < 1<<64 && float64(n) == d.float
	}
	return d.bits, d.kind == isUint || (d.kind == isInt && int64(d.bits) >= 0)
}

// asFloat takes an integer that a float holds exactly.
func (d *decoder) asFloat() (float64, bool) {
	switch d.kind {
	case isInt:
		f := float64(int64(d.bits))
		return f, f < 1<<63 && int64(f) == int64(d.bits)
	case isUint:
		f := float64(d.bits)
		return f, f < 1<<64 && uint64(f) == d.bits
	}
	return d.float, d.kind == isFloat
}

func (d *decoder) asDigits() (string, bool) {
	switch d.kind {
	case isInt:
		return strconv.FormatInt(int64(d.bits), 10), true
	case isUint:
		return strconv.FormatUint(d.bits, 10), true
	case isFloat:
		digits, err := appendJSONFloat(nil, d.float)
		return string(digits), err == nil
	}
	return "", false
}

// unmarshaler gives a value to a type that reads itself, as encoding/json would.
func (d *decoder) unmarshaler(v reflect.Value, p *plan, levels int) error {
	if !p.custom.unmarshal {
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(d.bytes); err != nil {
			return &misfit{reason: err.Error()}
		}
		return nil
	}
	value, err := d.current(levels)
	if err != nil {
		return err
	}
	data, err := encode(jsonCodec{}, nil, value)
	if err != nil {
		return d.misfit(p)
	}
	if err := v.Addr().Interface().(json.Unmarshaler).UnmarshalJSON(data); err != nil {
		return &misfit{reason: err.Error()}
	}
	return nil
}
