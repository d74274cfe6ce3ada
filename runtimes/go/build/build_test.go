package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// project writes files into an empty folder, and returns its path.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, text := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func sdkFolder(t *testing.T) string {
	t.Helper()
	folder, err := filepath.Abs("../../../sdks/go")
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// built builds a node and gives it a message; it returns what it prints.
func built(t *testing.T, path, function, message string) string {
	t.Helper()
	output := filepath.Join(t.TempDir(), "node")
	if err := build(path, function, output, sdkFolder(t)); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(output)
	command.Stdin = strings.NewReader(message)
	command.Stderr = os.Stderr
	printed, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(printed)
}

const words = `package words

import (
	"fmt"
	"strings"
)

func init() { fmt.Println("a print before main is no result") }

type Text struct{ Text string }

func Words(in Text, out func(string) error) error {
	for _, word := range strings.Fields(in.Text) {
		if err := out(word); err != nil {
			return err
		}
	}
	return nil
}
`

func TestFolderOfAPlainFunction(t *testing.T) {
	folder := project(t, map[string]string{
		"words/words.go":      words,
		"words/words_test.go": "package words\n\nimport \"testing\"\n\nfunc TestNothing(*testing.T) {}\n",
		"words/windows.go":    "//go:build windows\n\npackage words\n\nvar x = missing\n",
	})
	if got := built(t, filepath.Join(folder, "words"), "", `{"Text":"the rain"}`); got != "\"the\"\n\"rain\"\n" {
		t.Error(got)
	}
	if left, _ := os.ReadDir(filepath.Join(folder, "words")); len(left) != 3 {
		t.Error("the author's folder is not as it was: ", left)
	}
}

func TestFolderInAModule(t *testing.T) {
	folder := project(t, map[string]string{
		"go.mod":              "module shop\n\ngo 1.18\n\nrequire other v1.0.0\n\nreplace other v1.0.0 => ./third\n",
		"third/go.mod":        "module other\n",
		"third/other.go":      "package other\n\nconst Name = \"other\"\n",
		"internal/rate/r.go":  "package rate\n\nconst Rate = 3\n",
		"price/price.go":      "package price\n\nimport (\n\t\"shop/internal/rate\"\n\t\"other\"\n)\n\nfunc Price(in struct{ N int }) any { return []any{in.N * rate.Rate, other.Name} }\n",
		"price/go_ignored.md": "",
	})
	before, _ := os.ReadFile(filepath.Join(folder, "go.mod"))
	if got := built(t, filepath.Join(folder, "price"), "", `{"N":2}`); got != "[6,\"other\"]\n" {
		t.Error(got)
	}
	if after, _ := os.ReadFile(filepath.Join(folder, "go.mod")); !bytes.Equal(before, after) {
		t.Errorf("go.mod has become:\n%s", after)
	}
}

func TestOneFileOfSeveral(t *testing.T) {
	folder := project(t, map[string]string{
		"size.go":  "package main\n\nfunc size(in map[string]any) int { return len(in) }\n",
		"other.go": "package main\n\nfunc size() {}\n",
	})
	if got := built(t, filepath.Join(folder, "size.go"), "SIZE", `{"a":1}`); got != "1\n" {
		t.Error(got)
	}
}

func TestNamesAndFilesThatAreNotASCII(t *testing.T) {
	folder := project(t, map[string]string{
		"übung_größe/a.go": "\ufeffpackage übung\n\nfunc ÜbungGröße(in struct{ N int }) int { return in.N }\n\nfunc Other(in struct{ N int }) int { return 0 }\n",
	})
	if got := built(t, filepath.Join(folder, "übung_größe"), "übung_größe", `{"N":2}`); got != "2\n" {
		t.Error(got)
	}
}

func TestProgramsOfTheirOwn(t *testing.T) {
	folder := project(t, map[string]string{
		"sdk/main.go": "package main\n\nimport emit \"" + sdk + "\"\n\nfunc main() {\n\temit.Node(\"n\", emit.Pure(func(in emit.Message) int { return 7 }))\n\temit.Run()\n}\n",
		"own/main.go": "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(8) }\n",
		"reg/reg.go":  "package reg\n\nimport \"" + sdk + "\"\n\nfunc init() { emit.Node(\"n\", emit.Pure(nine)) }\n\nfunc nine(in emit.Message) int { return 9 }\n\nfunc Other() {}\n",
	})
	for name, wanted := range map[string]string{"sdk": "7\n", "own": "8\n", "reg": "9\n"} {
		if got := built(t, filepath.Join(folder, name), "", "{}"); got != wanted {
			t.Errorf("%s: %q", name, got)
		}
	}
	output := filepath.Join(folder, "out")
	if err := build(filepath.Join(folder, "own"), "x", output, sdkFolder(t)); err == nil || !strings.Contains(err.Error(), "program of its own") {
		t.Error(err)
	}
}

const shapes = `package main

import "context"

type in struct{}

func A(ctx context.Context, i in, out func(int) error) error { return out(1) }
func B(i in, out func(int) error) error                      { return out(1) }
func C(ctx context.Context, i in) (int, error)               { return 1, nil }
func D(i in) (int, error)                                    { return 1, nil }
func E(ctx context.Context, i in) int                        { return 1 }
func F(i in) int                                             { return 1 }
func G(ctx context.Context, i in) error                      { return nil }
func H(in) error                                             { return nil }
func I(context.Context, in)                                  {}
func J(in)                                                   {}
`

func TestShapes(t *testing.T) {
	folder := project(t, map[string]string{"x.go": shapes})
	s, err := read(folder)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for _, f := range s.functions() {
		call, err := s.registration(f.Name.Name, f)
		if err != nil {
			t.Error(err)
		}
		calls = append(calls, call)
	}
	output := filepath.Join(folder, "node")
	add := func(o *overlay) error {
		return o.addFile(mainFile, strings.Replace(mainText, "%s", strings.Join(calls, "\n"), 1))
	}
	if err := laidOver(s, sdkFolder(t), add, "build", "-o", output); err != nil {
		t.Fatal(err)
	}
	for name, wanted := range map[string]string{"A": "1\n", "F": "1\n", "J": ""} {
		command := exec.Command(output)
		command.Env, command.Stdin = append(os.Environ(), "EMIT_NODE="+name), strings.NewReader("{}")
		if printed, err := command.Output(); err != nil || string(printed) != wanted {
			t.Errorf("%s: %q, %v", name, printed, err)
		}
	}
}

func TestWhichFunction(t *testing.T) {
	const f = "func %(in map[string]any) int { return 1 }\n"
	for _, c := range []struct{ name, functions, asked, wanted string }{
		{"text.go", "Upper Text", "", "Text"},
		{"word_count.go", "Other WordCount", "", "WordCount"},
		{"text.go", "Upper Handler", "", "Handler"},
		{"text.go", "Upper help", "", "Upper"},
		{"text.go", "upper", "", "upper"},
		{"text.go", "Upper Size", "size", "Size"},
		{"two.go", "A B", "", "two.go: which function is the node? Name it Two, or say two.go:Name (found: A, B)"},
		{"two.go", "A B", "c", "two.go: there is no function c (found: A, B)"},
		{"none.go", "", "", "none.go: which function is the node? Name it None, or say none.go:Name (found: none)"},
	} {
		text := "package x\n\ntype T struct{}\n\nfunc (T) Two() {}\n\nfunc Generic[X any](X) {}\n\nfunc init() {}\n"
		for _, name := range strings.Fields(c.functions) {
			text += strings.Replace(f, "%", name, 1)
		}
		s, err := read(filepath.Join(project(t, map[string]string{c.name: text}), c.name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.choose(c.asked)
		if (err != nil && err.Error() != c.wanted) || (err == nil && got.Name.Name != c.wanted) {
			t.Errorf("%s, %q: %v, %v", c.functions, c.asked, got, err)
		}
	}
}

func TestNoHandler(t *testing.T) {
	folder := project(t, map[string]string{"x.go": "package x\n\nfunc X(a, b, c int) {}\n"})
	err := build(filepath.Join(folder, "x.go"), "", filepath.Join(folder, "out"), "")
	if err == nil || !strings.Contains(err.Error(), "x.go:3:1: X is no handler; it must be func(") {
		t.Error(err)
	}
}

func TestMistakesAreSaidOfTheAuthorsFile(t *testing.T) {
	folder := project(t, map[string]string{
		"typo/typo.go":     "package typo\n\nfunc Typo(in map[string]any) int {\n\treturn lenn(in)\n}\n",
		"syntax/syntax.go": "package syntax\n\nfunc Syntax( {\n",
	})
	command := exec.Command("go", "run", ".", filepath.Join(folder, "typo"), "", filepath.Join(folder, "out"))
	said, err := command.CombinedOutput()
	if err == nil || !strings.Contains(string(said), "typo.go:4:9: undefined: lenn") || strings.Contains(string(said), "emit-go-") {
		t.Errorf("%v: %s", err, said)
	}
	err = build(filepath.Join(folder, "syntax"), "", filepath.Join(folder, "out"), "")
	if err == nil || !strings.Contains(err.Error(), "syntax.go:3:") {
		t.Error(err)
	}
}

func TestTests(t *testing.T) {
	const test = "package words\n\nimport (\n\t\"testing\"\n\n\temit \"" + sdk + "\"\n)\n\nfunc TestWords(t *testing.T) {\n" +
		"\tgot, err := emit.Collect(emit.Each(Words), Text{\"the rain\"})\n\tif err != nil || len(got) != WANTED {\n\t\tt.Error(got, err)\n\t}\n}\n"
	folder := project(t, map[string]string{
		"words/words.go": words, "words/words_test.go": strings.Replace(test, "WANTED", "2", 1),
		"flat/words.go": words, "flat/words_test.go": strings.Replace(test, "WANTED", "3", 1), "flat/other.go": "package other\n",
	})
	if err := testFile(filepath.Join(folder, "words/words_test.go"), sdkFolder(t)); err != nil {
		t.Error(err)
	}
	if err := testFile(filepath.Join(folder, "flat/words_test.go"), sdkFolder(t)); err == nil {
		t.Error("a test that fails has passed")
	}
	broken := project(t, map[string]string{
		"broken.go": "package broken\n\nfunc Broken( {\n", "broken_test.go": "package broken\n", "other.go": "package other\n",
	})
	err := testFile(filepath.Join(broken, "broken_test.go"), sdkFolder(t))
	if err == nil || !strings.Contains(err.Error(), "broken.go:3:") {
		t.Error(err)
	}
}
