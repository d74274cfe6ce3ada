package emit

import (
	"math"
	"reflect"
)

// result returns the JSON Schema of one result; nil if it may be anything.
func result(t reflect.Type) map[string]any {
	if s := planOf(t).schema(false, nil); len(s) > 0 {
		return s
	}
	return nil
}

// schema returns the JSON Schema of a field; empty if it takes anything.
func (f *field) schema(takes bool) map[string]any {
	if f.asString {
		return map[string]any{}
	}
	return f.plan.schema(takes, nil)
}

// schema returns the JSON Schema of a type; empty for anything, and for a type inside of itself.
//
// A value that is taken may be null for what Go has nil for. A nil slice or map that is given is
// not thought of: it is null on the wire, and its author means an empty one.
func (p *plan) schema(takes bool, above []*plan) map[string]any {
	for _, outer := range above {
		if outer == p {
			return map[string]any{}
		}
	}
	if p.custom != (custom{}) {
		return map[string]any{}
	}
	above = append(above, p)
	switch p.shape {
	case boolShape:
		return typed("boolean")
	case intShape, uintShape:
		return p.whole()
	case floatShape:
		return map[string]any{"type": "number", "format": "double"}
	case numberShape:
		return typed("number")
	case textShape:
		return typed("string")
	case timeShape:
		return map[string]any{"type": "string", "format": "date-time"}
	case bytesShape:
		return orNull(takes, map[string]any{"type": "string", "format": "binary"})
	case byteArrayShape:
		return map[string]any{"type": "string", "format": "binary"}
	case listShape:
		return orNull(takes, map[string]any{"type": "array", "items": p.elem.schema(takes, above)})
	case arrayShape:
		return map[string]any{"type": "array", "items": p.elem.schema(takes, above)}
	case mapShape:
		return orNull(takes, map[string]any{"type": "object", "additionalProperties": p.elem.schema(takes, above)})
	case pointerShape:
		return orNull(true, p.elem.schema(takes, above))
	case structShape:
		return p.object(takes, above)
	}
	return map[string]any{}
}

func typed(name string) map[string]any { return map[string]any{"type": name} }

func orNull(is bool, schema map[string]any) map[string]any {
	if !is || len(schema) == 0 {
		return schema
	}
	return map[string]any{"anyOf": []any{schema, typed("null")}}
}

// whole returns the schema of an integer, with its range if the type states one. An int has no
// stated range: authors write it for any number.
func (p *plan) whole() map[string]any {
	schema := typed("integer")
	switch p.goType.Kind() {
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		highest := int64(math.MaxInt64) >> (64 - p.goType.Bits())
		schema["minimum"], schema["maximum"] = -highest-1, highest
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		schema["minimum"], schema["maximum"] = 0, uint64(math.MaxUint64)>>(64-p.goType.Bits())
	case reflect.Uint, reflect.Uintptr:
		schema["minimum"] = 0
	}
	return schema
}

func (p *plan) object(takes bool, above []*plan) map[string]any {
	required, properties := []string{}, map[string]any{}
	for _, f := range p.fields {
		if f.asString {
			properties[f.name] = map[string]any{}
		} else {
			properties[f.name] = f.plan.schema(takes, above)
		}
		left := f.omit || f.omitZero // a nil pointer is given as null
		if !left && !(takes && f.optional()) {
			required = append(required, f.name)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "required": required}
}
