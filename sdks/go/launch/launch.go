// Package launch makes a node of a plain function. The main function that runtimes/go adds to an
// author's file calls it. That file is part of the author's package. So it uses no name that the
// author may have redefined there, such as error, any or context.
package launch

import (
	"context"

	emit "github.com/emit-graph/emit/sdks/go"
)

// Run serves the registered functions.
func Run() { emit.Run() }

// EachContext registers a function that is given a context and emits any number of results.
func EachContext[In, Out any](name string, f func(context.Context, In, func(Out) error) error) {
	emit.Node(name, emit.Handler[In, Out](f))
}

// Each registers a function that emits any number of results.
func Each[In, Out any](name string, f func(In, func(Out) error) error) { emit.Node(name, emit.Each(f)) }

// OneContext registers a function that is given a context and returns one result or fails.
func OneContext[In, Out any](name string, f func(context.Context, In) (Out, error)) {
	emit.Node(name, emit.MapContext(f))
}

// One registers a function that returns one result or fails.
func One[In, Out any](name string, f func(In) (Out, error)) { emit.Node(name, emit.Map(f)) }

// PureContext registers a function that is given a context, returns one result and never fails.
func PureContext[In, Out any](name string, f func(context.Context, In) Out) {
	OneContext(name, func(ctx context.Context, in In) (Out, error) { return f(ctx, in), nil })
}

// Pure registers a function that returns one result and never fails.
func Pure[In, Out any](name string, f func(In) Out) { emit.Node(name, emit.Pure(f)) }

// CheckContext registers a function that is given a context, has no results and may fail.
func CheckContext[In any](name string, f func(context.Context, In) error) {
	EachContext(name, func(ctx context.Context, in In, _ func(any) error) error { return f(ctx, in) })
}

// Check registers a function that has no results and may fail.
func Check[In any](name string, f func(In) error) {
	Each(name, func(in In, _ func(any) error) error { return f(in) })
}

// SinkContext registers a function that is given a context, has no results and never fails.
func SinkContext[In any](name string, f func(context.Context, In)) {
	CheckContext(name, func(ctx context.Context, in In) error { f(ctx, in); return nil })
}

// Sink registers a function that has no results and never fails.
func Sink[In any](name string, f func(In)) {
	Check(name, func(in In) error { f(in); return nil })
}
