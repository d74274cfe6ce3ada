// Package emit makes a node of an Emit graph out of a Go function.
//
// A handler takes one message and gives its results, none or any number, to out:
//
//	package main
//
//	import (
//		"context"
//
//		emit "github.com/emit-graph/emit/sdks/go"
//	)
//
//	type In struct {
//		Count int `json:"count"`
//	}
//
//	func Count(ctx context.Context, in In, out func(int) error) error {
//		for n := range in.Count {
//			if err := out(n); err != nil {
//				return err
//			}
//		}
//		return nil
//	}
//
//	func main() { emit.Serve(Count) }
//
// [Each], [Map], [MapContext] and [Pure] make handlers of simpler functions; [Node] and [Run] serve
// several of them; [Collect] tests one without a host.
//
// An error that a handler returns, and a panic, fails the call. The host gets the error with its
// causes and, for a panic, the stack. [Retry] and [Reject] say whether to try again.
//
// The context of a handler ends when the host cancels the call, and at the call's deadline.
// [FromContext] returns the other facts about the call. Records of package log/slog, and of log
// through it, reach the host with the id of the call; see [LogHandler].
//
// The map of this package, which the SDKs of other languages share: errors.go, emit.go (the
// author's part) and call.go, codec.go with the files that it names, frames.go, session.go,
// serve.go, log.go. The wire is described in runtimes/PROTOCOL.md.
package emit
