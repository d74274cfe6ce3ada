"""The same plain files in every language, as an author of that language writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emit.host.language.runtime import runtimes


@dataclass(frozen=True)
class Language:
    """
    The plain files of one language.

    Attributes:
        name: The language's name, as in its runtime.toml.
        suffix: Suffix of its files.
        tool: The name of its toolchain in scripts/tools.py; empty if it is always installed.
        head: Lines before `function` and `reply`.
        function: A function NAME that emits the words of the field ``text``.
        reply: A function NAME that returns the text REPLY.
        fields: A function ``fields`` that takes ``first``, and ``second`` or "none", by name.
        extended: A function ``extended`` that emits its message with the field ``more``, "yes".
        quits: A function ``quits`` that ends its process with 0, for the field ``how``: "exit" as
            the language does it, "at once" without a word. For other values it returns the value.
        late: A file that registers two nodes with the SDK. ``late`` waits, for its first ``late``
            attempts, until its deadline, and fails as the language does then. After that it returns
            the attempt. ``nap`` sleeps for ``seconds``, or until its deadline, and returns
            "rested".
        prints: A file that prints while it loads, and a function ``prints`` that prints "now",
            itself and by a child process, and returns "printed".
        arguments: A function ``arguments`` that returns the command line at the time when the file
            was loaded, with commas, or "none".
        fails: A function ``fails`` that fails, on line 2, with the text "too hot".
        broken: A file that does not load, because a name on its second line does not exist.
        wrong: A file that is not valid in the language, from its second line on.
        sdk: A file that registers the nodes ``upper`` and ``size`` with the SDK.
    """

    name: str
    suffix: str
    tool: str
    head: str
    function: str
    reply: str
    fields: str
    extended: str
    quits: str
    late: str
    prints: str
    arguments: str
    fails: str
    broken: str
    wrong: str
    sdk: str

    def write(self, path: Path, text: str) -> str:
        """Write a file, and return the value for a node's ``file``."""
        file = path.with_suffix(self.suffix)
        file.write_text(text)
        return str(file)

    def words(self, *others: str) -> str:
        """Return a function ``words`` that emits the words of the field ``text``, and others."""
        return self.head + self.function.replace("NAME", "words") + self._replying(others)

    def replying(self, *names: str) -> str:
        """Return functions that return their own names."""
        return self.head + self._replying(names)

    def _replying(self, names: tuple[str, ...]) -> str:
        return "".join(self.reply.replace("NAME", name).replace("REPLY", name) for name in names)


PYTHON = Language(
    name="python",
    suffix=".py",
    tool="",
    head="",
    function="def NAME(msg):\n    yield from msg.text.split()\n",
    reply='def NAME(msg):\n    return "REPLY"\n',
    fields='def fields(first, second="none"):\n    return first + second\n',
    extended='def extended(msg):\n    return {**msg, "more": "yes"}\n',
    quits="""
import os, sys
def quits(how):
    if how == "exit":
        sys.exit(0)
    if how == "at once":
        os._exit(0)
    return how
""",
    late="""
import time
from emit_sdk import context, node, serve
@node
def late(msg):
    if context().attempt <= msg.late:
        time.sleep(context().remaining())  # the node's work
        raise TimeoutError("late")
    return context().attempt
@node
def nap(msg):
    time.sleep(min(msg.seconds, context().remaining()))  # the node's work
    if context().remaining() <= 0:
        raise TimeoutError("late")
    return "rested"
serve()
""",
    prints="""
import os
print("load")
def prints():
    print("now")
    os.system("echo now")
    return "printed"
""",
    arguments="import sys\nGIVEN = ','.join(sys.argv[1:]) or 'none'\n"
    "def arguments(msg):\n    return GIVEN if sys.argv[0] == __file__ else sys.argv[0]\n",
    fails="def fails(msg):\n    raise ValueError('too hot')\n",
    broken="def broken(msg): return 1\nno_such_name\n",
    wrong="import os\ndef wrong(:\n",
    sdk="""
from emit_sdk import node, serve
@node
def upper(msg): return msg.text.upper()
@node
def size(msg): return len(msg.text)
serve()
""",
)

RUBY = Language(
    name="ruby",
    suffix=".rb",
    tool="ruby",
    head="",
    function="def NAME(msg)\n  msg[:text].split.each\nend\n",
    reply='def NAME(msg) = "REPLY"\n',
    fields='def fields(first:, second: "none")\n  first + second\nend\n',
    extended='def extended(msg) = msg.merge(more: "yes")\n',
    quits="""
def quits(how:)
  exit if how == "exit"
  exit!(true) if how == "at once"
  how
end
""",
    late="""
require "emit"
require "timeout"
Emit.node(:late) do |msg|
  Timeout.timeout(Emit.context.remaining) { sleep } if Emit.context.attempt <= msg[:late]
  Emit.context.attempt
end
Emit.node(:nap) do |msg|
  Timeout.timeout(Emit.context.remaining) { sleep msg[:seconds] }
  "rested"
end
""",
    prints="""
puts "load"
def prints(msg)
  puts "now"
  system "echo now"
  "printed"
end
""",
    arguments='GIVEN = ARGV.join(",")\ndef arguments(msg) = GIVEN.empty? ? "none" : GIVEN\n',
    fails='def fails(msg)\n  raise "too hot"\nend\n',
    broken="def broken(msg) = 1\nno_such_name\n",
    wrong="a = 1\nb = = 2\n",
    sdk="""
require "emit"
Emit.node(:upper) { |msg| msg[:text].upcase }
Emit.node(:size) { |msg| msg[:text].size }
""",
)

NODE = Language(
    name="node",
    suffix=".mjs",
    tool="node",
    head="",
    function="export function* NAME({ text }) {\n  yield* text.split(' ').filter(Boolean);\n}\n",
    reply="export function NAME() { return 'REPLY'; }\n",
    fields="export function fields({ first, second = 'none' }) {\n  return first + second;\n}\n",
    extended="export function extended(msg) {\n  return { ...msg, more: 'yes' };\n}\n",
    quits="""
export function quits({ how }) {
  if (how === 'exit') process.exit(0);
  if (how === 'at once') process.reallyExit(0);
  return how;
}
""",
    late="""
import { setTimeout as sleep } from 'node:timers/promises';
import { node } from 'emit-graph-sdk';
node('late', async ({ late }, { attempt, signal }) => {
  if (attempt <= late) await sleep(1e6, null, { signal });
  return attempt;
});
node('nap', async ({ seconds }, { signal }) => sleep(seconds * 1000, 'rested', { signal }));
""",
    prints="""
import { execSync } from 'node:child_process';
console.log('load');
export function prints() {
  console.log('now');
  execSync('echo now', { stdio: 'inherit' });
  return 'printed';
}
""",
    arguments="const given = process.argv.slice(2).join() || 'none';\n"
    "export const arguments_ = () => given;\nexport default arguments_;\n",
    fails="export function fails() {\n  throw new Error('too hot');\n}\n",
    broken="export const broken = () => 1;\nnoSuchName;\n",
    wrong="export const a = 1;\nconst = 2;\n",
    sdk="""
import { node } from 'emit-graph-sdk';
node('upper', ({ text }) => text.toUpperCase());
node('size', ({ text }) => text.length);
""",
)

GO = Language(
    name="go",
    suffix=".go",
    tool="go",
    head="""package nodes

import "strings"

type message struct{ Text string }

var _ = strings.Fields
""",
    function="""
func NAME(in message, out func(string) error) error {
	for _, word := range strings.Fields(in.Text) {
		if err := out(word); err != nil {
			return err
		}
	}
	return nil
}
""",
    reply='\nfunc NAME(in message) string { return "REPLY" }\n',
    fields="""package nodes

type message struct {
	First  string
	Second *string
}

func fields(in message) string {
	if in.Second == nil {
		return in.First + "none"
	}
	return in.First + *in.Second
}
""",
    extended="""package nodes

func extended(in map[string]any) map[string]any {
	in["more"] = "yes"
	return in
}
""",
    quits="""package nodes

import "os"

func quits(in struct{ How string }) string {
	if in.How == "exit" || in.How == "at once" {
		os.Exit(0)
	}
	return in.How
}
""",
    late="""package nodes

import (
	"context"
	"time"

	"github.com/emit-graph/emit/sdks/go"
)

type message struct {
	Late    int     `json:"late,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

func init() {
	emit.Node("late", emit.MapContext(func(ctx context.Context, in message) (int, error) {
		attempt := emit.FromContext(ctx).Attempt
		if attempt <= in.Late {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return attempt, nil
	}))
	emit.Node("nap", emit.MapContext(func(ctx context.Context, in message) (string, error) {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Duration(in.Seconds * float64(time.Second))):
			return "rested", nil
		}
	}))
}
""",
    prints="""package nodes

import (
	"fmt"
	"os"
	"os/exec"
)

func init() { fmt.Println("load") }

func prints(in map[string]any) (string, error) {
	fmt.Println("now")
	echo := exec.Command("echo", "now")
	echo.Stdout = os.Stdout
	return "printed", echo.Run()
}
""",
    arguments="""package nodes

import (
	"os"
	"strings"
)

var given = strings.Join(append(os.Args[1:], "none"), ",")

func arguments(in map[string]any) string { return given }
""",
    fails='package nodes\nfunc fails(in map[string]any) { panic("too hot") }\n',
    broken="package nodes\nfunc broken(in map[string]any) { noSuchName() }\n",
    wrong="package nodes\nfunc wrong(\n",
    sdk="""package nodes

import (
	"strings"

	"github.com/emit-graph/emit/sdks/go"
)

type message struct{ Text string }

func init() {
	emit.Node("upper", emit.Pure(func(in message) string { return strings.ToUpper(in.Text) }))
	emit.Node("size", emit.Pure(func(in message) int { return len(in.Text) }))
}
""",
)

LANGUAGES = [PYTHON, RUBY, NODE, GO]


def missing() -> set[str]:
    """Return the languages that Emit has and this file lacks."""
    return set(runtimes()) - {language.name for language in LANGUAGES}
