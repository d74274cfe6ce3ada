// Package wire takes descriptors 0 and 1 away from all other code.
package wire

import (
	"os"
	"sync"
)

// Take returns private, close-on-exec descriptors in place of 0 and 1, the same ones each time.
//
// Afterwards a read finds the end of input. A print goes to stderr, also one of a C library or a
// child process. A terminal stays, and so does any input with EMIT_MSG: they are for a debugger.
var Take = sync.OnceValues(func() (in, out *os.File) {
	in, out = private(os.Stdin), private(os.Stdout)
	if info, err := os.Stdin.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		if _, debugged := os.LookupEnv("EMIT_MSG"); !debugged {
			silence()
		}
	}
	redirect(2, os.Stdout)
	return in, out
})

func silence() {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return
	}
	defer null.Close()
	redirect(int(null.Fd()), os.Stdin)
}
