"""Plain files as nodes, in every language: the same rules and the same errors."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import (
    CallTimeout,
    GraphError,
    HostError,
    NodeError,
    ProcessDied,
    RemoteError,
    StartError,
)
from emit.host.host import current
from emit.host.language.launch import places
from emit.host.language.runtime import fill, locate, runtimes
from scripts import tools
from tests.conftest import require
from tests.hosts import ROOT
from tests.leaks import no_leaks
from tests.plain_files import LANGUAGES, Language, missing

pytestmark = pytest.mark.usefixtures("builds")

Declare = Callable[..., Any]


@pytest.fixture(params=LANGUAGES, ids=lambda language: language.name)
def language(request: pytest.FixtureRequest) -> Language:
    language: Language = request.param
    require(*filter(None, [language.tool]))
    return language


@pytest.fixture
def router() -> Iterator[Router]:
    current().keeper.wake()  # its thread stays as long as the host does
    with no_leaks(), Router() as router:
        yield router


@pytest.fixture
def declare(language: Language, router: Router, tmp_path: Path) -> Declare:
    """Write a file of the language, and declare it as a node with the field ``n``."""

    def declare(
        stem: str,
        text: str,
        function: str = "",
        fields: tuple[str, ...] = ("n",),
        hears: Any = None,
        **options: Any,
    ) -> Any:
        file = language.write(tmp_path / stem, text) + (f":{function}" if function else "")
        options = {"name": "n", "cwd": str(tmp_path), **options}
        return router.node(fields, hears, file=file, **options)(ShellNode)

    return declare


def results(node: Any, **fields: Any) -> list[Any]:
    return [result["n"] for result in node(**fields)]


def test_every_language_is_here() -> None:
    """Each language that Emit comes with is tested below."""
    assert missing() == set()


# Which function is the node


@pytest.mark.quick
def test_the_one_that_is_named_as_the_file(language: Language, declare: Declare) -> None:
    """The function named as the file is the node; it emits several results, or none."""
    node = declare("words", language.words("other"))
    assert results(node, text="the rain") == ["the", "rain"]
    assert results(node, text="") == []


@pytest.mark.parametrize(
    ("names", "chosen"), [(("handler", "other"), "handler"), (("other",), "other")]
)
def test_the_handler_or_the_only_one(
    language: Language, declare: Declare, names: tuple[str, ...], chosen: str
) -> None:
    """The handler, or the only function, is the node if none has the file's name."""
    assert results(declare("words", language.replying(*names)), text="a") == [chosen]


def test_the_one_that_is_asked_for(language: Language, declare: Declare) -> None:
    """``file = "x.rb:name"`` is served, whatever else there is."""
    node = declare("words", language.replying("words", "handler", "other"), "other")
    assert results(node, text="a") == ["other"]


def test_which_of_two(language: Language, declare: Declare) -> None:
    """A choice that is the author's is left to him, and the error says how to make it."""
    with pytest.raises(StartError) as caught:
        results(declare("words", language.replying("one", "two")), text="a")
    says = r"which function is the node\? Name it words, or say words.*\(found: one, two\)"
    assert re.search(
        says, str(caught.value), re.IGNORECASE
    )  # a function of Go begins with a capital


def test_a_function_that_is_not_there(language: Language, declare: Declare) -> None:
    """The error says what is."""
    with pytest.raises(StartError, match=r"three.*\(found: one, two\)"):
        results(declare("words", language.replying("one", "two"), "three"), text="a")


# Files that use the SDK


@pytest.mark.parametrize("way", ["program_node", "function"])
def test_a_file_of_several_nodes(language: Language, declare: Declare, way: str) -> None:
    """A registered node is served; program_node, or the function, says which one."""
    for name, result in (("upper", "RAIN"), ("size", 4)):
        if way == "function":
            node = declare("text", language.sdk, name, name=name)
        else:
            node = declare("text", language.sdk, program_node=name, name=name)
        assert results(node, text="rain") == [result]


# What an author meets


def test_named_fields(language: Language, declare: Declare) -> None:
    """A function may name the fields it takes; one that is missing is an error that names it."""
    node = declare("fields", language.fields)
    assert results(node, first="a", second="b", third="c") == ["ab"]
    assert results(node, first="a") == ["anone"]
    with pytest.raises(RemoteError, match=r"(?i)first"):
        node(second="b")


@pytest.mark.parametrize("mode", ["auto", "oneshot"])
def test_a_message_with_a_field_more(
    language: Language, declare: Declare, router: Router, mode: str
) -> None:
    """Additions of Emit to a message are not emitted with it: alone, in a graph, and in a batch."""
    got: list[Any] = []
    router.node(("n",), entry_point=True, name="start")(lambda msg: (n for n in range(msg.count)))
    node = declare("extended", language.extended, fields=("n", "more"), hears="start", mode=mode)
    router.node((), "n", name="end")(lambda msg: got.append((msg.n, msg.more)))
    assert node(n=7) == ({"n": 7, "more": "yes"},)
    router(count=3)
    assert got == [(n, "yes") for n in (7, 0, 1, 2)]


@pytest.mark.parametrize("mode", ["auto", "oneshot"])
def test_a_handler_that_ends_its_process(language: Language, declare: Declare, mode: str) -> None:
    """Its message has failed, with exit code 0, too; the others of its batch are not charged."""
    node = declare("quits", language.quits, mode=mode, max_attempts=1)
    for how in ("exit", "at once"):
        with pytest.raises((RemoteError, ProcessDied)) as caught:
            node(how=how)
        says = str(caught.value), *getattr(caught.value, "__notes__", ())
        ended = "ended the process" if how == "exit" else "ended with exit code 0 before it"
        assert ended in "".join(says) or language.name == "go"  # which has but one way
        messages = [{"how": "a"}, {"how": how}, {"how": "b"}, {"how": how}, {"how": "c"}]
        outcomes = list(node.node.handler.call_many(messages))
        assert outcomes[::2] == [["a"], ["b"], ["c"]]
        assert all(isinstance(outcome, NodeError | HostError) for outcome in outcomes[1::2])
        assert results(node, how="d") == ["d"]


@pytest.mark.parametrize("how", ["exit", "at once"])
def test_a_command_for_one_message_that_ends_its_process(
    language: Language, router: Router, tmp_path: Path, how: str
) -> None:
    """The same for a command in mode oneshot, which is not known to have an SDK."""
    file = language.write(tmp_path / "quits", language.quits)
    command = list(ShellNode._launched(_declared(router, file)).argv)
    node = router.node(("n",), name="command", command=command, mode="oneshot")(ShellNode)
    assert results(node, how="a") == ["a"]
    with pytest.raises(ProcessDied):
        node(how=how)


def _declared(router: Router, file: str) -> ShellNode:
    node: ShellNode = router.node(("n",), name="file", file=file)(ShellNode).node.handler
    return node


@pytest.mark.parametrize("mode", ["auto", "oneshot"])
def test_a_name_that_none_of_several_nodes_has(
    language: Language, declare: Declare, mode: str
) -> None:
    """No other node is run, whether the name is the node's own or its program_node."""
    for options in ({"name": "uppr"}, {"program_node": "uppr"}):
        node = declare("text", language.sdk, mode=mode, **options)
        with pytest.raises((RemoteError, ProcessDied)) as caught:
            node(text="rain")
        says = "".join((str(caught.value), *getattr(caught.value, "__notes__", ())))
        assert 'there is no node "uppr" in this program; it has: upper, size' in says
    assert results(declare("text", language.sdk, mode=mode, name="upper"), text="a") == ["A"]


@pytest.mark.parametrize("way", ["name", "program_node"])
@pytest.mark.parametrize("mode", ["auto", "oneshot"])
def test_one_node_under_any_name(language: Language, declare: Declare, mode: str, way: str) -> None:
    """A program with one node serves it, whatever the router calls it."""
    node = declare("only", language.replying("only"), mode=mode, **{way: "another"})
    assert [results(node, text="a") for _ in range(2)] == [["only"]] * 2


def test_a_failure_of_the_deadline_is_tried_again(language: Language, declare: Declare) -> None:
    """Each language has its own words for such a failure, which is not the author's."""
    node = declare("late", language.late, "late", timeout=2, max_attempts=2)
    assert results(node, late=1) == [2]
    with pytest.raises(CallTimeout):
        results(node, late=2)


def test_a_batch_takes_longer_than_each_of_it_may(language: Language, declare: Declare) -> None:
    """The time of a message begins with its turn, and not with its sending."""
    node = declare("late", language.late, "nap", timeout=4, max_attempts=1)
    outcomes = list(node.node.handler.call_many([{"seconds": 0.5}] * 12))
    assert outcomes == [["rested"]] * 12


def test_prints_are_no_results(
    language: Language, declare: Declare, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither while it loads nor later; a child process's are none either."""
    caplog.set_level(logging.INFO, "emit.node.n")
    assert results(declare("prints", language.prints), n=1) == ["printed"]
    assert sum("now" in record.getMessage() for record in caplog.records) == 2
    assert any("load" in record.getMessage() for record in caplog.records)


def test_a_failure_has_the_authors_line(language: Language, declare: Declare) -> None:
    """The author's file and line come first; the process serves on."""
    node = declare("fails", language.fails)
    for _ in range(2):
        with pytest.raises(RemoteError, match="too hot") as caught:
            node(n=1)
        assert f"fails{language.suffix}:2" in caught.value.stack[0]


@pytest.mark.parametrize("kind", ["broken", "wrong"])
def test_a_file_that_does_not_load(language: Language, declare: Declare, kind: str) -> None:
    """The error has the file and its line."""
    node = declare(kind, getattr(language, kind))
    with pytest.raises(StartError) as caught:
        node(n=1)
    assert f"{kind}{language.suffix}:2" in "\n".join([str(caught.value), *caught.value.__notes__])


def test_one_process_for_each_message(language: Language, declare: Declare) -> None:
    """The file alone is enough in mode oneshot, too."""
    node = declare("words", language.words(), mode="oneshot")
    assert results(node, text="the rain") == ["the", "rain"]


def test_an_empty_environment(language: Language, declare: Declare) -> None:
    """It needs nothing but PATH and HOME."""
    assert results(declare("words", language.words(), pass_env=("PATH", "HOME")), text="a") == ["a"]


def test_no_arguments(language: Language, declare: Declare) -> None:
    """A file that reads its command line when it is loaded finds it as if it were run by itself."""
    assert results(declare("arguments", language.arguments), n=1) == ["none"]


def test_a_path_with_two_dots(language: Language, declare: Declare, tmp_path: Path) -> None:
    """It leads to the file, and what is above the file is looked for by where the file is."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    for folder in ("a", "a/b"):  # of another project, whose Python this is
        (tmp_path / folder / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / folder / ".venv" / "bin" / "python").symlink_to("/no/such/python")
    file = language.write(tmp_path / "words", language.words())
    path = f"../../{Path(file).name}"
    with Router() as router:
        node = router.node(("n",), name="n", file=path, cwd=str(tmp_path / "a" / "b"))(ShellNode)
        assert results(node, text="the rain") == ["the", "rain"]


def test_a_folder_that_is_named_as_a_file(language: Language, tmp_path: Path) -> None:
    """An empty one is no node, and the declaration says that it is a folder."""
    (tmp_path / f"words{language.suffix}").mkdir()
    with pytest.raises(GraphError, match="it is a folder, and must hold files of one of"):
        Router().node((), name="n", file=tmp_path / f"words{language.suffix}")(ShellNode)


def test_a_current_directory_that_is_gone(
    language: Language, declare: Declare, tmp_path: Path
) -> None:
    """A file elsewhere is served."""
    gone = tmp_path / "gone"
    gone.mkdir()
    before = os.getcwd()
    os.chdir(gone)
    try:
        node = declare("words", language.words(), cwd=None)
        gone.rmdir()
        assert results(node, text="the rain") == ["the", "rain"]
    finally:
        os.chdir(before)


# What comes with a language


def test_its_templates(language: Language, tmp_path: Path) -> None:
    """The files of `emit new` run as they are, and pass the test that comes with them."""
    runtime = runtimes()[language.name]
    if not (runtime.folder / "template" / f"plain{language.suffix}").exists():
        pytest.skip("its templates are folders")  # and tested with the SDK
    for kind in ("plain", "sdk"):
        folder = tmp_path / kind
        folder.mkdir()
        file = folder / f"words{language.suffix}"
        test = folder / fill([runtime.test_file], {"name": "words"})[0]
        for source, target in ((kind, file), ("test", test)):
            text = (runtime.folder / "template" / f"{source}{language.suffix}").read_text()
            target.write_text(text.replace("{{name}}", "words"))
        with Router() as router:
            node = router.node(("word", "length"), file=file, name="words")(ShellNode)
            assert node(text="the rain") == (
                {"word": "the", "length": 3},
                {"word": "rain", "length": 4},
            )
        if kind == "sdk":
            run_test(language, test)


def run_test(language: Language, test: Path) -> None:
    runtime = runtimes()[language.name]
    values = places(locate("words", test), None)
    done = subprocess.run(
        fill(runtime.test, values),
        cwd=test.parent,
        env={**os.environ, **sdk_paths()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def sdk_paths() -> dict[str, str]:
    """Return the paths at which an author would have installed the SDK."""
    return {
        "PYTHONPATH": str(ROOT / "sdks" / "python"),
        "RUBYLIB": str(ROOT / "sdks" / "ruby" / "lib"),
    }


# Python alone


def test_a_virtual_environment_beside_the_file(tmp_path: Path) -> None:
    """Its Python runs the file: that of a .venv in the file's folder, or above it."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexport WHICH=mine\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "nodes").mkdir()
    file = tmp_path / "nodes" / "which.py"
    file.write_text("import os\ndef which(msg):\n    return os.environ.get('WHICH', 'other')\n")
    with Router() as router:
        for name, cwd, which in (("a", tmp_path, "mine"), ("b", tmp_path / "nodes", "other")):
            node = router.node(("n",), name=name, file=file, cwd=str(cwd))(ShellNode)
            assert results(node, n=1) == [which]


def test_a_virtual_environment_that_is_broken(tmp_path: Path) -> None:
    """Its Python is gone: no other one runs the file in its place."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/no/such/python")
    (tmp_path / "one.py").write_text("def one(msg):\n    return 1\n")
    node = Router().node(("n",), name="n", file=tmp_path / "one.py")(ShellNode)
    with pytest.raises(StartError, match=rf"looked at {tmp_path}/\.venv/bin/python\)"):
        node(n=1)


def test_a_copy_of_the_sdk_beside_the_file_wins(tmp_path: Path) -> None:
    """An author's own version is not replaced by ours."""
    sdk = (ROOT / "sdks" / "python" / "emit_sdk.py").read_text()
    (tmp_path / "emit_sdk.py").write_text(sdk + "\nMARK = 'mine'\n")
    (tmp_path / "mark.py").write_text("import emit_sdk\ndef mark(msg): return emit_sdk.MARK\n")
    with Router() as router:
        node = router.node(("n",), name="n", file=tmp_path / "mark.py")(ShellNode)
        assert results(node, n=1) == ["mine"]


def test_async_functions(tmp_path: Path) -> None:
    """A coroutine function and an async generator function are nodes as well."""
    (tmp_path / "later.py").write_text(
        "import asyncio\n"
        "async def once(msg):\n    await asyncio.sleep(0)\n    return msg.n\n"
        "async def twice(msg):\n    yield msg.n\n    await asyncio.sleep(0)\n    yield msg.n\n"
    )
    with Router() as router:
        for name, expected in (("once", [7]), ("twice", [7, 7])):
            node = router.node(("n",), name=name, file=tmp_path / f"later.py:{name}")(ShellNode)
            assert results(node, n=7) == expected


PYTHON_NAMES = ("string", "token", "json", "logging", "types", "time", "os", "select", "msgpack")


@pytest.mark.parametrize("name", [*PYTHON_NAMES, "orjson", "emit_sdk", "emit", "launch", "test"])
def test_a_python_file_that_is_named_as_a_module(name: str, tmp_path: Path) -> None:
    """Python's own modules and the SDK's are found whatever the file hides, by the file as well."""
    (tmp_path / f"{name}.py").write_text(
        "import asyncio, email.message\nfrom logging import info\nfrom string import capwords\n"
        f"def {name}(word):\n    info('a line')\n    return capwords(word)\n"
    )
    with Router() as router:
        node = router.node(("n",), name="n", file=tmp_path / f"{name}.py")(ShellNode)
        assert results(node, word="rain") == ["Rain"]


@pytest.mark.parametrize("hidden", ["string.py", "string/__init__.py"])
def test_a_module_beside_a_python_file(hidden: str, tmp_path: Path) -> None:
    """One that hides a module of Python's is never given to others; to the author's file, which
    asks for what only it has, neither, and the error says what to rename."""
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    (tmp_path / hidden).write_text("def up(word):\n    return word.upper()\n")
    (tmp_path / "helper.py").write_text("def down(word):\n    return word.lower()\n")
    for name, code in {
        "apart": "import helper\ndef apart(word):\n    return helper.down(word)\n",
        "theirs": "from string import Formatter\nimport string as s\n"
        "def theirs(word):\n    return Formatter().format('{}', s.capwords(word))\n",
        "mine": "from string import up\ndef mine(word):\n    return up(word)\n",
        "late": "def late(word):\n    import string\n    return string.up(word)\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    with Router() as router:

        def call(name: str) -> list[Any]:
            file = tmp_path / f"{name}.py"
            return results(router.node(("n",), name=name, file=file)(ShellNode), word="RAin")

        assert (call("apart"), call("theirs")) == (["rain"], ["Rain"])
        for name in ("mine", "late"):
            says = (
                rf"{name}\.py uses string\.up, and string\.py beside it hides .*rename string\.py"
            )
            with pytest.raises(StartError, match=says):
                call(name)


# Ruby alone


@pytest.mark.requires("ruby")
@pytest.mark.parametrize(
    "name", ["format", "hash", "method", "send", "puts", "load", "json", "emit"]
)
def test_a_ruby_file_that_is_named_as_a_method(name: str, tmp_path: Path) -> None:
    """Its function is the author's to call, and every object keeps Ruby's method of that name."""
    (tmp_path / f"{name}.rb").write_text(
        "require 'json'\nrequire 'logger'\n"
        f"def {name}(msg)\n  return JSON.generate(msg[:word]) unless msg[:again]\n\n"
        f"  {name}({{ word: msg[:word] }})\nend\n"
    )
    with Router() as router:
        node = router.node(("n",), name="n", file=tmp_path / f"{name}.rb")(ShellNode)
        assert results(node, word="rain", again=True) == ['"rain"']


# Node alone


@pytest.mark.requires("node")
def test_typescript(tmp_path: Path) -> None:
    """Node takes the types out if it can; else the error says what would."""
    source = "export function twice({ n }: { n: number }): number {\n  return n * 2;\n}\n"
    (tmp_path / "twice.ts").write_text(source)
    version = tools.version(tools.named("node"))
    with Router() as router:
        node = router.node(("n",), name="n", file=tmp_path / "twice.ts")(ShellNode)
        if version is not None and version >= (22, 18):
            assert results(node, n=2) == [4]
        else:
            with pytest.raises(StartError, match=r"22\.18 or newer, or npm install.*tsx"):
                node(n=2)


@pytest.mark.requires("node")
def test_the_default_export(tmp_path: Path) -> None:
    """It is the node, whatever its name, and can be asked for by it, or as default."""
    text = "export default function named() { return 'it'; }\nexport function other() {}\n"
    (tmp_path / "file.mjs").write_text(text)
    with Router() as router:
        for file in ("file.mjs", "file.mjs:named", "file.mjs:default"):
            node = router.node(("n",), name=file, file=tmp_path / file)(ShellNode)
            assert results(node, n=1) == ["it"]


# Go alone


@pytest.mark.requires("go")
def test_a_go_file_that_is_named_as_what_is_added(tmp_path: Path) -> None:
    """The author's package may give error, any and the SDK's name another meaning."""
    names = ("emit", "any", "error", "context", "nil")
    others = "".join(f"func {name}() {{}}\n" for name in names[1:])
    (tmp_path / "emit.go").write_text(
        "package emit\n\ntype Text struct{ Word string }\n"
        f"func emit(in Text) string {{ return in.Word }}\n{others}"
    )
    with Router() as router:
        node = router.node(("n",), name="n", file=tmp_path / "emit.go:emit")(ShellNode)
        assert results(node, word="rain") == ["rain"]


@pytest.mark.requires("go")
def test_a_folder_of_go_files(tmp_path: Path) -> None:
    """It is one package, and the function may be in any of its files; it stays as it is."""
    folder = tmp_path / "word_count"
    folder.mkdir()
    (folder / "a.go").write_text(
        "package anything\n\ntype Text struct{ Text string }\n\n"
        "func WordCount(in Text) int { return count(in.Text) }\n"
    )
    (folder / "b.go").write_text(
        'package anything\n\nimport "strings"\n\n'
        "func count(text string) int { return len(strings.Fields(text)) }\n"
    )
    before = sorted(folder.iterdir())
    with Router() as router:
        for function in ("", ":WordCount", ":word_count"):
            file = f"{folder}{function}"
            node = router.node(("n",), name=f"n{function}", file=file)(ShellNode)
            assert results(node, text="the rain") == [2]
    assert sorted(folder.iterdir()) == before
