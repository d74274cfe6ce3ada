package main

import (
	"fmt"
	"go/ast"
	gobuild "go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A source is the author's files.
type source struct {
	given  string // what was asked for, for messages
	stem   string // the name of the file or folder
	folder string
	names  []string // of the files in it
	whole  bool     // the folder is meant
	set    *token.FileSet
	files  []*ast.File
}

// read parses a file, or those of a folder that belong to this system and are no tests.
func read(path string) (*source, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	base := filepath.Base(path)
	s := &source{given: base, stem: strings.TrimSuffix(base, ".go"), set: token.NewFileSet()}
	if s.folder, s.names = filepath.Dir(path), []string{base}; info.IsDir() {
		s.folder, s.whole = path, true
		p, err := gobuild.ImportDir(path, 0)
		if err != nil {
			return nil, err
		}
		s.names = append(p.GoFiles, p.CgoFiles...)
	}
	for _, name := range s.names {
		file, err := parser.ParseFile(s.set, filepath.Join(s.folder, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, file)
	}
	return s, nil
}

// functions returns those of the package, in the author's order: no methods, no generic ones.
func (s *source) functions() (found []*ast.FuncDecl) {
	for _, file := range s.files {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Type.TypeParams == nil && f.Name.Name != "init" {
				found = append(found, f)
			}
		}
	}
	return found
}

func (s *source) hasMain() bool {
	for _, f := range s.functions() {
		if f.Name.Name == "main" && s.files[0].Name.Name == "main" {
			return true
		}
	}
	return false
}

// sdkName returns the name by which a file knows the SDK; empty if it does not.
func sdkName(file *ast.File) string {
	for _, i := range file.Imports {
		if path, _ := strconv.Unquote(i.Path.Value); path == sdk {
			if i.Name != nil {
				return i.Name.Name
			}
			return "emit"
		}
	}
	return ""
}

func (s *source) usesSDK() bool {
	for _, file := range s.files {
		if sdkName(file) != "" {
			return true
		}
	}
	return false
}

// registers says whether the author's code calls emit.Node itself, as in an init function.
func (s *source) registers() (found bool) {
	for _, file := range s.files {
		name := sdkName(file)
		ast.Inspect(file, func(n ast.Node) bool {
			if called, ok := n.(*ast.SelectorExpr); ok && name != "" && called.Sel.Name == "Node" {
				of, ok := called.X.(*ast.Ident)
				found = found || (ok && of.Name == name)
			}
			return true
		})
	}
	return found
}

// choose finds the function that is the node.
func (s *source) choose(asked string) (*ast.FuncDecl, error) {
	all := s.functions()
	for _, name := range []string{asked, s.stem, "handler"} {
		if f := named(all, name); f != nil && name != "" {
			return f, nil
		} else if name == asked && asked != "" {
			return nil, fmt.Errorf("%s: there is no function %s (found: %s)", s.given, asked, listed(all))
		}
	}
	exported := []*ast.FuncDecl{}
	for _, f := range all {
		if f.Name.IsExported() {
			exported = append(exported, f)
		}
	}
	if len(exported) > 0 {
		all = exported
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return nil, fmt.Errorf("%s: which function is the node? Name it %s, or say %s:Name (found: %s)",
		s.given, plain(s.stem), s.given, listed(all))
}

// named goes by the letters alone, as a file is called word_count and its function WordCount.
func named(all []*ast.FuncDecl, name string) *ast.FuncDecl {
	for _, f := range all {
		if f.Name.Name == name {
			return f
		}
	}
	for _, f := range all {
		if strings.EqualFold(plain(f.Name.Name), plain(name)) {
			return f
		}
	}
	return nil
}

// plain makes WordCount of word_count and word-count.
func plain(name string) string {
	words := strings.FieldsFunc(name, func(r rune) bool { return r == '_' || r == '-' || r == '.' })
	for i, word := range words {
		first, size := utf8.DecodeRuneInString(word)
		words[i] = string(unicode.ToUpper(first)) + word[size:]
	}
	return strings.Join(words, "")
}

func listed(all []*ast.FuncDecl) string {
	names := []string{}
	for _, f := range all {
		names = append(names, f.Name.Name)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// registration returns the call that registers f.
func (s *source) registration(name string, f *ast.FuncDecl) (string, error) {
	adapter, err := s.adapter(f)
	return fmt.Sprintf("emit_launch.%s(%q, %s)", adapter, name, f.Name.Name), err
}

// adapter returns the function of package launch that registers f.
func (s *source) adapter(f *ast.FuncDecl) (string, error) {
	in, out := types(f.Type.Params), types(f.Type.Results)
	withContext := len(in) > 0 && isContext(in[0])
	if withContext {
		in = in[1:]
	}
	failing := len(out) > 0 && isError(out[len(out)-1])
	shape := fmt.Sprintf("%d in, %d out, failing %v", len(in), len(out), failing)
	name, ok := map[string]string{
		"2 in, 1 out, failing true":  "Each",
		"1 in, 2 out, failing true":  "One",
		"1 in, 1 out, failing false": "Pure",
		"1 in, 1 out, failing true":  "Check",
		"1 in, 0 out, failing false": "Sink",
	}[shape]
	if !ok {
		return "", fmt.Errorf("%s: %s is no handler; it must be func([ctx context.Context,] in In, out func(T) error) error, "+
			"or func([ctx,] in In) with the results (T, error), T, error, or none", s.set.Position(f.Pos()), f.Name.Name)
	}
	if withContext {
		name += "Context"
	}
	return name, nil
}

func types(list *ast.FieldList) (found []ast.Expr) {
	if list == nil {
		return nil
	}
	for _, field := range list.List {
		for range max(len(field.Names), 1) {
			found = append(found, field.Type)
		}
	}
	return found
}

func isContext(t ast.Expr) bool {
	of, ok := t.(*ast.SelectorExpr)
	return ok && of.Sel.Name == "Context"
}

func isError(t ast.Expr) bool {
	name, ok := t.(*ast.Ident)
	return ok && name.Name == "error"
}
