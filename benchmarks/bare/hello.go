// The bare program in Go, for comparison: it prints a line and reads standard input to its end.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	fmt.Println("hello")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
