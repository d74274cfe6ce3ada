//go:build unix

package wire

import (
	"os"
	"syscall"
)

func private(f *os.File) *os.File {
	syscall.ForkLock.RLock() // no child is started between the two calls
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return f
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), f.Name())
}

func redirect(from int, to *os.File) {
	if err := dup2(from, int(to.Fd())); err != nil {
		*to = *os.Stderr // the prints of Go, at least
	}
}
