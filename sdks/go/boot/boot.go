// Package boot takes the wire as soon as it is imported, before the author's package is
// initialized. The launcher of runtimes/go imports it; other programs take the wire when they
// serve.
package boot

import "github.com/emit-graph/emit/sdks/go/internal/wire"

func init() { wire.Take() }
