package emit

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// A shape is the form on the wire of a Go type's values.
type shape uint8

const (
	noShape shape = iota // channels, functions: nothing carries them
	boolShape
	intShape
	uintShape
	floatShape
	textShape
	bytesShape
	byteArrayShape
	timeShape
	numberShape
	listShape
	arrayShape
	mapShape
	structShape
	pointerShape
	anyShape
)

// A plan has the facts that reflection has found out about a type.
type plan struct {
	goType  reflect.Type
	shape   shape
	elem    *plan // of lists, maps and pointers
	fields  []*field
	byName  map[string]*field
	mayOmit bool // a field has omitempty or omitzero
	custom  custom
}

// custom records which of encoding/json's own interfaces a pointer to the type has.
type custom struct{ marshal, marshalText, unmarshal, unmarshalText bool }

// A field is a struct's field, as encoding/json names it.
type field struct {
	name             string
	at               int    // its index in plan.fields
	json, packed     []byte // the encoded key
	index            []int
	plan             *plan
	omit, omitZero   bool
	tagged, asString bool
}

var (
	plans     sync.Map // reflect.Type: *plan
	planning  sync.Mutex
	byteSlice = typeOf[[]byte]()
)

func planOf(t reflect.Type) *plan {
	if known, ok := plans.Load(t); ok {
		return known.(*plan)
	}
	planning.Lock()
	defer planning.Unlock()
	made := map[reflect.Type]*plan{}
	p := makePlan(t, made)
	for t, p := range made { // only after all are complete: others read them without the lock
		plans.LoadOrStore(t, p)
	}
	return p
}

func makePlan(t reflect.Type, made map[reflect.Type]*plan) *plan {
	if known, ok := plans.Load(t); ok {
		return known.(*plan)
	}
	if known, ok := made[t]; ok {
		return known // a type that contains itself
	}
	p := &plan{goType: t, shape: shapeOf(t), custom: customOf(t)}
	made[t] = p
	switch p.shape {
	case listShape, arrayShape, mapShape, pointerShape:
		p.elem = makePlan(t.Elem(), made)
	case structShape:
		p.addFields(made)
	}
	return p
}

func shapeOf(t reflect.Type) shape {
	switch t {
	case typeOf[time.Time]():
		return timeShape
	case typeOf[json.Number]():
		return numberShape
	}
	switch t.Kind() {
	case reflect.Bool:
		return boolShape
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return intShape
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return uintShape
	case reflect.Float32, reflect.Float64:
		return floatShape
	case reflect.String:
		return textShape
	}
	return shapeOfContainer(t)
}

func shapeOfContainer(t reflect.Type) shape {
	switch t.Kind() {
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return bytesShape
		}
		return listShape
	case reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return byteArrayShape
		}
		return arrayShape
	case reflect.Map:
		return mapShape
	case reflect.Struct:
		return structShape
	case reflect.Pointer:
		return pointerShape
	case reflect.Interface:
		return anyShape
	}
	return noShape
}

func customOf(t reflect.Type) custom {
	switch shapeOf(t) {
	case timeShape, numberShape, anyShape, pointerShape: // for a pointer, its target decides
		return custom{}
	}
	p := reflect.PointerTo(t)
	return custom{
		marshal:       p.Implements(typeOf[json.Marshaler]()),
		marshalText:   p.Implements(typeOf[encoding.TextMarshaler]()),
		unmarshal:     p.Implements(typeOf[json.Unmarshaler]()),
		unmarshalText: p.Implements(typeOf[encoding.TextUnmarshaler]()),
	}
}

func (p *plan) addFields(made map[reflect.Type]*plan) {
	found := fieldsOf(p.goType, nil, map[reflect.Type]bool{})
	for _, f := range found {
		if !dominant(f, found) {
			continue
		}
		t := p.goType.FieldByIndex(f.index).Type
		f.plan = makePlan(t, made)
		f.at = len(p.fields)
		p.fields = append(p.fields, f)
		p.mayOmit = p.mayOmit || f.omit || f.omitZero
	}
	p.byName = make(map[string]*field, len(p.fields))
	for _, f := range p.fields {
		p.byName[f.name] = f
	}
	if len(p.fields) == 0 && p.goType.NumField() > 0 {
		p.shape = noShape // all fields are hidden, as in most errors: an empty map would lose them
	}
}

func fieldsOf(t reflect.Type, at []int, outer map[reflect.Type]bool) (found []*field) {
	if outer[t] {
		return nil
	}
	outer[t] = true
	defer delete(outer, t)
	for i := 0; i < t.NumField(); i++ {
		sf, index := t.Field(i), append(slices.Clone(at), i)
		tag := sf.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		inner := sf.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case tag == "-" || (!sf.IsExported() && !(sf.Anonymous && inner.Kind() == reflect.Struct)):
		case sf.Anonymous && name == "" && inner.Kind() == reflect.Struct && shapeOf(inner) == structShape:
			found = append(found, fieldsOf(inner, index, outer)...)
		case sf.IsExported():
			found = append(found, newField(sf, name, options, index))
		}
	}
	return found
}

func newField(sf reflect.StructField, name, options string, index []int) *field {
	f := &field{name: name, index: index, tagged: name != ""}
	if name == "" {
		f.name = sf.Name
	}
	for _, option := range strings.Split(options, ",") {
		f.omit = f.omit || option == "omitempty"
		f.omitZero = f.omitZero || option == "omitzero"
		f.asString = f.asString || option == "string"
	}
	f.json = append(appendJSONText(nil, f.name), ':')
	f.packed = appendPackedText(nil, f.name)
	return f
}

// dominant applies Go's own rule for embedded structs: the shallowest field of a name, a tagged one
// before others, and no field if two remain.
func dominant(f *field, all []*field) bool {
	for _, other := range all {
		if other == f || other.name != f.name {
			continue
		}
		deeper := len(other.index) > len(f.index)
		if !deeper && (len(other.index) < len(f.index) || other.tagged || !f.tagged) {
			return false
		}
	}
	return true
}

// find returns the field for a key: of exactly this name, or else of the same letters.
func (p *plan) find(key []byte) *field {
	if f, ok := p.byName[string(key)]; ok {
		return f
	}
	for _, f := range p.fields {
		if strings.EqualFold(f.name, string(key)) {
			return f
		}
	}
	return nil
}

// optional reports whether a message may lack the field.
func (f *field) optional() bool {
	return f.omit || f.omitZero || f.plan.shape == pointerShape
}

// inputs lists the fields that a message must and may hold; nil for a type that names no fields.
func inputs(t reflect.Type) map[string]any {
	p := planOf(t)
	if p.shape != structShape || p.custom.unmarshal {
		return nil
	}
	required, optional, properties := []string{}, []string{}, map[string]any{}
	for _, f := range p.fields {
		if s := f.schema(true); len(s) > 0 {
			properties[f.name] = s
		}
		if f.optional() {
			optional = append(optional, f.name)
		} else {
			required = append(required, f.name)
		}
	}
	return map[string]any{"required": required, "optional": optional, "properties": properties}
}
