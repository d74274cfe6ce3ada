// Build makes a node of a Go file, or of a folder of them, that has a plain function, and runs the
// tests of one:
//
//	go run . FILE FUNCTION OUTPUT
//	go run . test FILE_test.go
//
// The author's folder stays as it is. What is added, a main function, the package clause that goes
// with it and the SDK, is laid over it for this one build (go help build: -overlay, -modfile).
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const sdk = "github.com/emit-graph/emit/sdks/go"

func main() {
	// Beside runtimes/, in a checkout and in a wheel; `go -C` has made this folder the current one.
	sdkFolder, err := filepath.Abs(filepath.Join("..", "..", "..", "sdks", "go"))
	switch {
	case err != nil:
	case len(os.Args) == 4:
		err = build(os.Args[1], os.Args[2], os.Args[3], sdkFolder)
	case len(os.Args) == 3 && os.Args[1] == "test":
		err = testFile(os.Args[2], sdkFolder)
	default:
		err = errors.New("usage: build FILE FUNCTION OUTPUT, or build test FILE_test.go")
	}
	var compiler *exec.ExitError
	if errors.As(err, &compiler) && compiler.Exited() {
		os.Exit(compiler.ExitCode()) // it has said all there is to say
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func build(file, function, output, sdkFolder string) error {
	s, err := read(file)
	if err != nil {
		return err
	}
	return laidOver(s, sdkFolder, func(o *overlay) error { return o.addMain(function) },
		// No version control: its state is no part of a node, and git may refuse another user's folder.
		"build", "-buildvcs=false", "-o", output)
}

// testFile runs a test file: with the file it is named after, or with all of the folder if there is none.
func testFile(file, sdkFolder string) error {
	tested, err := read(strings.TrimSuffix(file, "_test.go") + ".go")
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && filepath.Base(filepath.Dir(file)) == tested.stem:
		tested, err = read(filepath.Dir(file))
	case err == nil:
		tested.names = append(tested.names, filepath.Base(file))
	}
	if err != nil {
		return err
	}
	return laidOver(tested, sdkFolder, func(o *overlay) error { return nil }, "test")
}

// laidOver runs go in the author's folder, with what is added.
func laidOver(s *source, sdkFolder string, add func(*overlay) error, arguments ...string) error {
	made, err := os.MkdirTemp("", "emit-go-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(made)
	o := &overlay{source: s, made: made, Replace: map[string]string{}}
	if err := add(o); err != nil {
		return err
	}
	options, err := o.addModule(sdkFolder)
	if err != nil {
		return err
	}
	if err := o.write(); err != nil {
		return err
	}
	arguments = append(append(arguments, "-overlay", filepath.Join(made, "overlay.json")), options...)
	return run(s.folder, append(arguments, o.targets()...))
}

func run(folder string, arguments []string) error {
	command := exec.Command("go", arguments...)
	command.Dir = folder
	command.Env = append(os.Environ(), "PWD="+folder, "GOWORK=off") // -modfile and go.work exclude each other
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	return command.Run()
}
