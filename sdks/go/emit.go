package emit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// Version of this SDK.
const Version = "0.5.0"

// A Handler is a node's function: it takes one message and gives each result to out.
//
// In is a struct, whose fields are named as by encoding/json, or a map[string]any. A field is
// required unless it is a pointer or has omitempty or omitzero; fields that In lacks are left out.
// In an any, integers arrive as int64 (uint64 beyond that), instants as time.Time, in UTC.
//
// Out is any type that encoding/json takes, with two exceptions. Bytes and instants need msgpack,
// which a host chooses by itself, and are never made into text. Keys of maps must be strings.
//
// An error of out, about the result it was given, fails the call even if the handler ignores it.
type Handler[In, Out any] func(ctx context.Context, in In, out func(Out) error) error

// Message is a message of any fields.
type Message = map[string]any

// Each makes a handler of a function that needs no context.
func Each[In, Out any](f func(In, func(Out) error) error) Handler[In, Out] {
	return made(f, func(_ context.Context, in In, out func(Out) error) error { return f(in, out) })
}

// Map makes a handler of a function with one result.
func Map[In, Out any](f func(In) (Out, error)) Handler[In, Out] {
	return made(f, MapContext(func(_ context.Context, in In) (Out, error) { return f(in) }))
}

// MapContext makes a handler of a function with one result that needs the context.
func MapContext[In, Out any](f func(context.Context, In) (Out, error)) Handler[In, Out] {
	return made(f, func(ctx context.Context, in In, out func(Out) error) error {
		result, err := f(ctx, in)
		if err != nil {
			return err
		}
		return out(result)
	})
}

// Pure makes a handler of a function with one result that cannot fail.
func Pure[In, Out any](f func(In) Out) Handler[In, Out] {
	return made(f, func(_ context.Context, in In, out func(Out) error) error { return out(f(in)) })
}

// Collect gives a handler one message and returns its results, for tests without a host.
//
// As a host's SDK does, it checks that a codec carries each result, and returns an [*EncodeError]
// if none does.
func Collect[In, Out any](handler Handler[In, Out], in In) (results []Out, err error) {
	var mu sync.Mutex // a handler may emit from goroutines of its own, as under a host
	var refused error
	err = handler(outside(), in, func(result Out) error {
		mu.Lock()
		defer mu.Unlock()
		if _, err := encode(msgpackCodec{}, nil, result); err != nil {
			refused = err
			return err
		}
		results = append(results, result)
		return nil
	})
	if err == nil {
		err = refused
	}
	return results, err
}

// Node registers a handler under a name. Call it before [Run].
func Node[In, Out any](name string, handler Handler[In, Out]) {
	registered.add(newNode(name, handler))
}

// Serve is [Node] and [Run] for a program of one node, named as its function.
func Serve[In, Out any](handler Handler[In, Out]) {
	Node(nameOf(authors(handler)), handler)
	Run()
}

// Concurrency sets how many calls the program works on at a time, each in a goroutine of its own.
// The default is 1: calls are worked on in order. Call it before [Run].
func Concurrency(calls int) {
	if calls < 1 {
		registered.fail(fmt.Errorf("emit.Concurrency: %d calls at a time; it takes 1 at least", calls))
		return
	}
	registered.concurrency = calls
}

// A program is the set of nodes that one process serves.
type program struct {
	nodes       []*node
	concurrency int
	failure     error
}

type node struct {
	name   string
	place  string // of the author's function
	inputs map[string]any
	result map[string]any // the schema of one result; nil for any
	handle func(c codec, msg []byte, ctx context.Context, emit func(any) error) error
}

var registered = &program{concurrency: 1}

func newNode[In, Out any](name string, handler Handler[In, Out]) *node {
	return &node{name, placeOf(authors(handler)), inputs(typeOf[In]()), result(typeOf[Out]()), func(c codec, msg []byte, ctx context.Context, emit func(any) error) error {
		in := new(In)
		if err := decode(c, msg, in); err != nil {
			return unfit(name, c, msg, err)
		}
		return handler(ctx, *in, func(result Out) error { return emit(result) })
	}}
}

// unfit returns an error that names the node that a message does not fit, and the message's fields.
func unfit(node string, c codec, msg []byte, err error) error {
	var m Message
	if decode(c, msg, &m) != nil {
		return malformed(fmt.Sprintf("%s: the message is no map of fields: %v", node, err))
	}
	var fields []string
	for name := range m {
		fields = append(fields, name)
	}
	slices.Sort(fields)
	return &misfit{text: fmt.Sprintf("%s: %v; it has: %s", node, err, strings.Join(fields, ", "))}
}

// origins has the handler and the author's function for each handler that Each and the others have
// made.
var origins sync.Map

func made[In, Out any](function any, handler Handler[In, Out]) Handler[In, Out] {
	origins.Store(identity(handler), [2]any{handler, function})
	return handler
}

// identity distinguishes closures, which share their code. A living closure has its own address.
func identity[In, Out any](handler Handler[In, Out]) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&handler))
}

// authors returns the author's own function.
func authors[In, Out any](handler Handler[In, Out]) any {
	if known, ok := origins.Load(identity(handler)); ok {
		return known.([2]any)[1]
	}
	return handler
}

// nameOf returns a function's own name, or the program's if it has none.
func nameOf(function any) string {
	name := runtime.FuncForPC(reflect.ValueOf(function).Pointer()).Name()
	name = strings.TrimSuffix(name[strings.LastIndex(name, ".")+1:], "-fm") // -fm: a method of a value
	if literal.MatchString(name) || strings.HasSuffix(name, "]") {
		name = strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")
	}
	return name
}

var literal = regexp.MustCompile(`^(func)?\d*$`) // main.func1, or main.func1.2 within one

func placeOf(function any) string {
	f := runtime.FuncForPC(reflect.ValueOf(function).Pointer())
	file, line := f.FileLine(f.Entry())
	return fmt.Sprintf("%s:%d in %s", file, line, f.Name())
}

func (p *program) add(n *node) {
	if p.find(n.name) != nil || n.name == "" {
		p.fail(fmt.Errorf("each node needs a name of its own, and %q is taken or empty", n.name))
		return
	}
	p.nodes = append(p.nodes, n)
}

// fail keeps the first fault of the program, for the host.
func (p *program) fail(err error) {
	if p.failure == nil {
		p.failure = err
	}
}

func (p *program) find(name string) *node {
	for _, n := range p.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// serving returns the node of a name. A program with one node serves it under any name.
func (p *program) serving(name string) (*node, error) {
	if len(p.nodes) == 1 {
		return p.nodes[0], nil
	}
	if n := p.find(name); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("there is no node %q in this program; it has: %s", name, strings.Join(p.names(), ", "))
}

func (p *program) names() []string {
	names := []string{}
	for _, n := range p.nodes {
		names = append(names, n.name)
	}
	return names
}

func (p *program) ready() ready {
	about := ready{Op: "ready", V: 1, SDK: "go/" + Version, Concurrency: p.concurrency, Nodes: p.names()}
	about.Inputs, about.Caps = map[string]map[string]any{}, []string{"cancel", "end", "groups"}
	about.Outputs = map[string]map[string]any{}
	for _, n := range p.nodes {
		if n.inputs != nil {
			about.Inputs[n.name] = n.inputs
		}
		if n.result != nil {
			about.Outputs[n.name] = n.result
		}
	}
	return about
}
