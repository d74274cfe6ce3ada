// The smallest node of the Go SDK: it answers each message with the message.
package main

import emit "github.com/emit-graph/emit/sdks/go"

func echo(in emit.Message) emit.Message { return in }

func main() { emit.Serve(emit.Pure(echo)) }
