package emit

import (
	"fmt"
	"reflect"
)

type decoder struct {
	reader // one of these two
	json   jsonReader
	packed packedReader
	token
	members int
}

func (d *decoder) target(target any) error {
	if m, ok := target.(*map[string]any); ok {
		err := d.next(&d.token)
		if err == nil && d.kind != isMap {
			err = d.misfit(planOf(typeOf[map[string]any]()))
		} else if err == nil {
			*m, err = d.anyMap(maxDepth)
		}
		return err
	}
	v := reflect.ValueOf(target).Elem()
	return d.into(v, planOf(v.Type()), maxDepth)
}

// any reads a value in its own type: int64, or uint64 beyond, float64, string, []byte, time.Time in
// UTC, []any, map[string]any, bool, nil.
func (d *decoder) any(levels int) (any, error) {
	if err := d.next(&d.token); err != nil {
		return nil, err
	}
	return d.current(levels)
}

func (d *decoder) current(levels int) (any, error) {
	switch d.kind {
	case isBool:
		return d.bits != 0, nil
	case isInt:
		return int64(d.bits), nil
	case isUint:
		return d.bits, nil
	case isFloat:
		return d.float, nil
	case isText:
		return string(d.bytes), nil
	case isBytes:
		return append([]byte{}, d.bytes...), nil
	case isTime:
		return d.time, nil
	case isList:
		return d.anyList(levels)
	case isMap:
		return d.anyMap(levels)
	}
	return nil, nil
}

// another moves to the next member of a list or map.
func (d *decoder) another(size, levels int) (left int, ok bool, err error) {
	if levels == 0 {
		return 0, false, malformed(fmt.Sprintf("it nests deeper than %d levels", maxDepth))
	}
	left, ok, err = d.more(size)
	if ok {
		d.members++
	}
	if d.members > maxMembers {
		return 0, false, malformed(fmt.Sprintf("it has more than %d members", maxMembers))
	}
	return left, ok, err
}

func (d *decoder) anyList(levels int) (any, error) {
	size, list := d.size, make([]any, 0, min(max(d.size, 0), 64))
	for {
		left, more, err := d.another(size, levels)
		if err != nil || !more {
			return list, err
		}
		size = left
		item, err := d.any(levels - 1)
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
}

func (d *decoder) anyMap(levels int) (map[string]any, error) {
	size, m := d.size, make(map[string]any, min(max(d.size, 0), 64))
	for {
		left, more, err := d.another(size, levels)
		if err != nil || !more {
			return m, err
		}
		size = left
		raw, err := d.key()
		if err != nil {
			return nil, err
		}
		key := string(raw)
		if m[key], err = d.any(levels - 1); err != nil {
			return nil, err
		}
	}
}

// skip reads a value without a target, and checks it.
func (d *decoder) skip(levels int) error {
	if err := d.next(&d.token); err != nil {
		return err
	}
	return d.skipCurrent(levels)
}

func (d *decoder) skipCurrent(levels int) error {
	if d.kind < isList {
		return nil
	}
	size, mapping := d.size, d.kind == isMap
	for {
		left, more, err := d.another(size, levels)
		if err != nil || !more {
			return err
		}
		size = left
		if mapping {
			if _, err := d.key(); err != nil {
				return err
			}
		}
		if err := d.skip(levels - 1); err != nil {
			return err
		}
	}
}
