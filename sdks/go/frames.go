package emit

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	slice   = 16 * 1024               // Bytes per read: the host refills the pipe while this slice is worked on.
	enough  = 16 * 1024               // Bytes of results that are worth a frame, or a write, of their own.
	small   = 512                     // Bytes of results that may share a frame with those of other calls.
	ahead   = 1024                    // Calls that wait before reading stops: mostly more than a host's window.
	largest = 1<<24 - 1               // Bytes of a frame: the most that max_frame can be.
	linger  = time.Millisecond        // How long a finished result may wait for company.
	early   = 5 * time.Millisecond    // Time by which a timer may fire early.
	grace   = 4500 * time.Millisecond // Time from seeing the end to the exit: 5 s at most in all.
)

// input is the incoming half of the wire. Returned slices stay valid: buffers are not reused.
type input struct {
	file *os.File
	data []byte
	end  bool
}

// fill reads once.
func (i *input) fill() {
	if cap(i.data)-len(i.data) < slice {
		grown := make([]byte, len(i.data), max(4*slice, 2*len(i.data)+slice))
		copy(grown, i.data)
		i.data = grown
	}
	n, err := i.file.Read(i.data[len(i.data) : len(i.data)+slice])
	i.data = i.data[:len(i.data)+n]
	i.end = err != nil
}

// line returns the next line that is not blank, with its newline; nothing at the end.
func (i *input) line() []byte {
	for {
		at := bytes.IndexByte(i.data, '\n')
		if at < 0 && !i.end {
			i.fill()
			continue
		}
		if at < 0 {
			at = len(i.data) - 1
		}
		line := i.data[:at+1]
		i.data = i.data[at+1:]
		if len(line) == 0 || len(bytes.TrimSpace(line)) > 0 {
			return line
		}
	}
}

// all returns the rest of the input.
func (i *input) all() []byte {
	for !i.end {
		i.fill()
	}
	return i.data
}

type hello struct {
	Op       string         `json:"op"`
	V        []int64        `json:"v"`
	Codecs   []string       `json:"codecs"`
	Node     string         `json:"node"`
	MaxFrame int            `json:"max_frame"`
	Config   map[string]any `json:"config,omitempty"`
}

// readHello returns nil for any other line, such as a message by hand.
func readHello(line []byte) *hello {
	var op struct {
		Op any `json:"op,omitempty"`
	}
	if decode(jsonCodec{}, line, &op) != nil || op.Op != "hello" {
		return nil
	}
	h := &hello{MaxFrame: largest}
	_ = decode(jsonCodec{}, line, h) // a missing field shows in V
	if h.Config == nil {
		h.Config = map[string]any{}
	}
	return h
}

type ready struct {
	Op          string                    `json:"op"`
	V           int                       `json:"v"`
	Codec       string                    `json:"codec,omitempty"`
	SDK         string                    `json:"sdk"`
	Concurrency int                       `json:"concurrency"`
	Nodes       []string                  `json:"nodes"`
	Inputs      map[string]map[string]any `json:"inputs,omitempty"`
	Outputs     map[string]map[string]any `json:"outputs,omitempty"`
	Caps        []string                  `json:"caps"`
}

// An err or a log over max_frame would be lost whole, so its longest parts are cut.
type shortenable interface{ shortened(text int) any }

type errFrame struct {
	Op string `json:"op"`
	ID *int64 `json:"id"`
	failure
}

func (f errFrame) shortened(text int) any {
	f.Stack, f.Cause, f.Message = nil, nil, start(f.Message, text)
	return f
}

// start returns at most size bytes of a text, without half a character.
func start(text string, size int) string {
	return strings.ToValidUTF8(text[:min(len(text), size)], "")
}

type logFrame struct {
	Op     string         `json:"op"`
	Level  string         `json:"level"`
	Text   string         `json:"text"`
	ID     *int64         `json:"id,omitempty"`
	Fields map[string]any `json:"fields,omitempty"`
}

func (f logFrame) shortened(text int) any {
	f.Fields, f.Text = nil, start(f.Text, text)
	return f
}

// An endFrame ends a plain run, not a call: its id is null.
type endFrame struct {
	Op string `json:"op"`
	ID *int64 `json:"id"`
}

type pongFrame struct {
	Op string `json:"op"`
	N  int64  `json:"n"`
}

// A frame from the host, after hello.
type frame struct {
	op    string
	id, n int64
	hasID bool
	node  string
	meta
	msg         []byte
	msgs, metas [][]byte // of a group
	odd         error    // a field that has another type than it should
	oddGroup    error    // the same of one that only a group has
}

type meta struct {
	origin                  string
	traceparent, tracestate string
	attempt, deadline       int64 // deadline in ms, below 0: none
}

// readFrame takes the envelope apart by hand and leaves the message undecoded: only the call's
// handler knows its type.
func readFrame(c codec, data []byte) (f frame, err error) {
	f.attempt, f.deadline = 1, -1
	d := newDecoder(c, data)
	defer d.free()
	err = d.eachKey(func(key []byte) error {
		switch string(key) {
		case "op":
			return d.text(&f.op, &f.odd)
		case "id":
			fits, err := d.scalar(isInt, &f.odd)
			if f.hasID = fits; fits {
				f.id = int64(d.bits)
			}
			return err
		case "n":
			return d.integer(&f.n, &f.odd)
		case "node":
			return d.text(&f.node, &f.odd)
		case "msg":
			start := len(data) - d.rest()
			err := d.skip(maxDepth)
			f.msg = data[start : len(data)-d.rest()]
			return err
		case "meta":
			return d.eachKey(func(key []byte) error { return d.meta(&f.meta, &f.odd, key) })
		case "msgs":
			return d.maps(data, &f.msgs, &f.oddGroup, false)
		case "metas":
			return d.maps(data, &f.metas, &f.oddGroup, true)
		}
		return d.skip(maxDepth)
	})
	if err == nil && d.rest() > 0 {
		err = malformed("there is something after it")
	}
	return f, f.check(err)
}

// check accepts a newer host's frame with an unknown op.
func (f *frame) check(err error) error {
	known := f.op == "call" || f.op == "calls" || f.op == "cancel" || f.op == "ping" || f.op == ""
	if err == nil && known {
		err = f.odd
	}
	if err == nil && (f.op == "call" || f.op == "cancel") && (!f.hasID || (f.op == "call" && f.msg == nil)) {
		err = malformed("it lacks its id or its msg")
	}
	if err == nil && f.op == "calls" {
		err = f.checkGroup()
	}
	if err != nil {
		return fmt.Errorf("a frame from the host is broken: %w", err)
	}
	return nil
}

func (f *frame) checkGroup() error {
	switch {
	case f.oddGroup != nil:
		return f.oddGroup
	case !f.hasID || len(f.msgs) == 0:
		return malformed("it lacks its id or its msgs")
	case f.metas != nil && len(f.metas) != len(f.msgs):
		return malformed(fmt.Sprintf("it has %d metas for %d msgs", len(f.metas), len(f.msgs)))
	}
	return nil
}

// own returns the meta of one message of a group: its own entries, and those of the whole group.
func (f *frame) own(c codec, at int) (meta, error) {
	m := f.meta
	if at >= len(f.metas) || f.metas[at] == nil {
		return m, nil
	}
	d := newDecoder(c, f.metas[at])
	defer d.free()
	var odd error
	err := d.eachKey(func(key []byte) error { return d.meta(&m, &odd, key) })
	if err == nil {
		err = odd
	}
	return m, err
}

// maps reads a list of maps, and leaves them undecoded. With optional, a member may be null: nil.
func (d *decoder) maps(data []byte, to *[][]byte, odd *error, optional bool) error {
	if err := d.next(&d.token); err != nil || d.kind == isNull {
		return err
	}
	if d.kind != isList {
		*odd = malformed("it has " + kindNames[d.kind] + " where a list is due")
		_, err := d.current(maxDepth)
		return err
	}
	*to = [][]byte{}
	for size, more := d.size, true; ; {
		var err error
		if size, more, err = d.another(size, maxDepth); err != nil || !more {
			return err
		}
		start := len(data) - d.rest()
		if err := d.next(&d.token); err != nil {
			return err
		}
		member := d.kind
		if err := d.skipCurrent(maxDepth); err != nil {
			return err
		}
		switch {
		case member == isMap:
			*to = append(*to, data[start:len(data)-d.rest()])
		case optional && member == isNull:
			*to = append(*to, nil)
		default:
			*odd = malformed("a list in it has another member than a map")
		}
	}
}

func (d *decoder) meta(m *meta, odd *error, key []byte) error {
	switch string(key) {
	case "origin":
		return d.text(&m.origin, odd)
	case "traceparent":
		return d.text(&m.traceparent, odd)
	case "tracestate":
		return d.text(&m.tracestate, odd)
	case "attempt":
		return d.integer(&m.attempt, odd)
	case "deadline_ms":
		return d.integer(&m.deadline, odd)
	}
	return d.skip(maxDepth)
}

// eachKey walks a map, or does nothing for null.
func (d *decoder) eachKey(do func(key []byte) error) error {
	if err := d.next(&d.token); err != nil || d.kind == isNull {
		return err
	}
	if d.kind != isMap {
		return malformed("it has " + kindNames[d.kind] + " where a map is due")
	}
	for size, more := d.size, true; ; {
		var err error
		if size, more, err = d.another(size, maxDepth); err != nil || !more {
			return err
		}
		key, err := d.key()
		if err != nil {
			return err
		}
		if err := do(key); err != nil {
			return err
		}
	}
}

// text and integer read a field. For null, or a value of another type, the field keeps its value.
func (d *decoder) text(to *string, odd *error) error {
	fits, err := d.scalar(isText, odd)
	if fits {
		*to = string(d.bytes)
	}
	return err
}

func (d *decoder) integer(to *int64, odd *error) error {
	fits, err := d.scalar(isInt, odd)
	if fits {
		*to = int64(d.bits)
	}
	return err
}

func (d *decoder) scalar(wanted kind, odd *error) (fits bool, err error) {
	if err := d.next(&d.token); err != nil || d.kind == wanted || d.kind == isNull {
		return err == nil && d.kind == wanted, err
	}
	*odd = malformed(fmt.Sprintf("it has %s where %s is due", kindNames[d.kind], kindNames[wanted]))
	_, err = d.current(maxDepth)
	return false, err
}
