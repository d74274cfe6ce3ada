package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// An overlay is the files that the compiler finds beside, or instead of, the author's.
type overlay struct {
	source  *source
	made    string            // the folder of what is made
	Replace map[string]string // a path that the compiler sees: the file that is there
	added   []string          // names beside the author's
}

// The file's name sorts last, and is of no author's.
const mainFile = "zz_emit_main.go"

// What it names, the author's package can't have given another meaning.
const mainText = `package main

import (
	_ "github.com/emit-graph/emit/sdks/go/boot"
	emit_launch "github.com/emit-graph/emit/sdks/go/launch"
)

func main() {
	%s
	emit_launch.Run()
}
`

const bootText = `package main

import _ "github.com/emit-graph/emit/sdks/go/boot"
`

// addMain adds what a folder lacks to be a program that serves a node.
func (o *overlay) addMain(function string) error {
	s := o.source
	if s.hasMain() && function != "" {
		return fmt.Errorf("%s: it is a program of its own, so there is no choosing %s; program_node names a node", s.given, function)
	}
	if s.hasMain() {
		if s.usesSDK() { // the wire is to be taken before the author's packages print
			return o.addFile(mainFile, bootText)
		}
		return nil
	}
	register := ""
	if !s.registers() {
		f, err := s.choose(function)
		if err != nil {
			return err
		}
		name := f.Name.Name
		if function != "" { // word_count finds WordCount, and is what the host calls it
			name = function
		}
		if register, err = s.registration(name, f); err != nil {
			return err
		}
	}
	if err := o.renamePackage(); err != nil {
		return err
	}
	return o.addFile(mainFile, fmt.Sprintf(mainText, register))
}

// renamePackage makes every file one of package main. Errors and stacks still speak of the author's.
func (o *overlay) renamePackage() error {
	found, err := os.ReadDir(o.source.folder)
	if err != nil {
		return err
	}
	for _, entry := range found {
		if strings.HasSuffix(entry.Name(), "_test.go") { // it is of the package that was
			o.Replace[filepath.Join(o.source.folder, entry.Name())] = "" // not there
		}
	}
	for i, file := range o.source.files {
		if file.Name.Name == "main" {
			continue
		}
		name := o.source.names[i]
		text, err := os.ReadFile(filepath.Join(o.source.folder, name))
		if err != nil {
			return err
		}
		start := o.source.set.Position(file.Name.Pos()).Offset
		end := start + len(file.Name.Name)
		line := fmt.Sprintf("//line %s:1:1\n", filepath.Join(o.source.folder, name))
		before := strings.TrimPrefix(string(text[:start]), "\ufeff") // legal at a file's begin only
		if err := o.put(name, line+before+"main"+string(text[end:])); err != nil {
			return err
		}
	}
	return nil
}

func (o *overlay) addFile(name, text string) error {
	o.added = append(o.added, name)
	return o.put(name, text)
}

// put lays text over a name in the author's folder.
func (o *overlay) put(name, text string) error {
	path := filepath.Join(o.made, name)
	o.Replace[filepath.Join(o.source.folder, name)] = path
	return os.WriteFile(path, []byte(text), 0o600)
}

// addModule gives the build a go.mod that has the SDK: the author's with a line more, or a new one.
// An SDK that the author's own go.mod requires stays.
func (o *overlay) addModule(sdkFolder string) (options []string, err error) {
	root := moduleRoot(o.source.folder)
	if root != "" && !o.source.usesSDK() && len(o.added) == 0 {
		return nil, nil // a program that does without
	}
	text := fmt.Sprintf("module node\n\ngo %s\n", goVersion())
	var vendored []module
	if root != "" {
		own, err := os.ReadFile(filepath.Join(root, "go.mod"))
		if err != nil {
			return nil, err
		}
		if text = string(own); requiresSDK.MatchString(text) {
			return nil, nil
		}
		if sums, err := os.ReadFile(filepath.Join(root, "go.sum")); err == nil {
			if err := os.WriteFile(filepath.Join(o.made, "go.sum"), sums, 0o600); err != nil {
				return nil, err
			}
		}
		vendored = vendoredModules(root)
	} else {
		o.Replace[filepath.Join(o.source.folder, "go.mod")] = filepath.Join(o.made, "go.mod")
	}
	text += fmt.Sprintf("\nrequire %s v0.0.0\n\nreplace %s => %q\n", sdk, sdk, sdkFolder)
	path := filepath.Join(o.made, "go.mod")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	// -mod=mod: a go line older than the SDK's may be raised, in this copy.
	return []string{"-mod=mod", "-modfile=" + path}, o.useVendored(path, vendored)
}

// A module is one that the author keeps in vendor/.
type module struct {
	path, version, goVersion string
	folder                   string
}

// vendoredModules reads vendor/modules.txt, if there is one. It can't be laid over, so go would
// refuse it with one module more in go.mod.
func vendoredModules(root string) (found []module) {
	text, err := os.ReadFile(filepath.Join(root, "vendor", "modules.txt"))
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) >= 3 && words[0] == "#" && words[2] != "=>":
			folder := filepath.Join(root, "vendor", filepath.FromSlash(words[1]))
			found = append(found, module{words[1], words[2], goVersion(), folder})
		case len(words) >= 2 && words[0] == "##" && len(found) > 0 && words[len(words)-2] == "go":
			found[len(found)-1].goVersion = words[len(words)-1]
		}
	}
	return found
}

// useVendored has each module in vendor/ stand for its version, as -mod=vendor would.
func (o *overlay) useVendored(modfile string, modules []module) error {
	arguments := []string{"mod", "edit"}
	for i, m := range modules {
		if _, err := os.Stat(m.folder); err != nil {
			continue // no package of it is needed
		}
		text := fmt.Sprintf("module %s\n\ngo %s\n", m.path, m.goVersion)
		made := filepath.Join(o.made, fmt.Sprintf("vendored%d.mod", i))
		if err := os.WriteFile(made, []byte(text), 0o600); err != nil {
			return err
		}
		o.Replace[filepath.Join(m.folder, "go.mod")] = made
		arguments = append(arguments, fmt.Sprintf("-replace=%s@%s=%s", m.path, m.version, m.folder))
	}
	if len(arguments) == 2 {
		return nil
	}
	return run(o.made, append(arguments, modfile))
}

var requiresSDK = regexp.MustCompile(`(?m)^\s*(require\s+)?` + regexp.QuoteMeta(sdk) + `\s+v`)

// targets are what go is to build: a folder, or the files that are named.
func (o *overlay) targets() []string {
	if o.source.whole {
		return []string{"."}
	}
	return append(o.source.names, o.added...)
}

// moduleRoot returns the nearest folder with a go.mod; empty if there is none.
func moduleRoot(folder string) string {
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder
		}
		above := filepath.Dir(folder)
		if above == folder {
			return ""
		}
		folder = above
	}
}

// goVersion is that of the toolchain that builds, such as 1.26.
func goVersion() string {
	numbers := strings.Split(strings.TrimPrefix(runtime.Version(), "go"), ".")
	if len(numbers) < 2 {
		return "1.22"
	}
	return numbers[0] + "." + numbers[1]
}

func (o *overlay) write() error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.made, "overlay.json"), text, 0o600)
}
