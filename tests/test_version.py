"""The version of a program: what changes it, and what is said of two versions at a time."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emit import Router, ShellNode
from emit.host import host
from emit.host.language import launch
from emit.host.language.runtime import locate
from emit.host.system import version
from emit.host.system.program import Parts, Program
from emit.host.system.version import version_of

RUBY = "def words(msg)\n  [1]\nend\n"


def project(folder: Path, *, manifest: bool = True) -> Parts:
    """Write a project of two Ruby files, and return the parts of the first."""
    (folder / "nodes").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "nodes" / "words.rb").write_text(RUBY)
    (folder / "lib" / "shared.rb").write_text("X = 1\n")
    if manifest:
        (folder / "Gemfile").write_text("source 'https://rubygems.org'\n")
    source = locate("words", folder / "nodes" / "words.rb")
    bare = Program(node="words", argv=(), env={}, cwd=str(folder))
    parts = launch.build.parts_of(bare, source, launch.places(source, str(folder)))
    assert bool(parts.manifest) is manifest
    return parts


def of(parts: Parts) -> str:
    return version_of(Program(node="words", argv=("ruby",), env={}, parts=parts))


CHANGES: dict[str, Callable[[Path], object]] = {
    "its file": lambda top: (top / "nodes" / "words.rb").write_text(RUBY + "\n"),
    "another file of its language": lambda top: (top / "lib" / "shared.rb").write_text("X = 2\n"),
    "a new one": lambda top: (top / "lib" / "new.rb").write_text(""),
    "one that is gone": lambda top: (top / "lib" / "shared.rb").unlink(),
    "one that was renamed": lambda top: (top / "lib" / "shared.rb").rename(top / "lib" / "s.rb"),
    "the manifest": lambda top: (top / "Gemfile").write_text("gem 'rack'\n"),
    "the lock file": lambda top: (top / "Gemfile.lock").write_text("GEM\n"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_a_version(tmp_path: Path, what: str) -> None:
    """Everything that the program is made of."""
    parts = project(tmp_path / "app")
    before = of(parts)
    assert re.fullmatch("[0-9a-f]{12}", before)
    CHANGES[what](tmp_path / "app")
    assert of(parts) != before


NONE: dict[str, Callable[[Path], object]] = {
    "a file of another language": lambda top: (top / "lib" / "x.py").write_text("1"),
    "an editor's": lambda top: (top / "lib" / ".shared.rb.swp").write_text("1"),
    "a package that is installed": lambda top: _write(top / "node_modules" / "a" / "a.rb"),
    "a virtual environment": lambda top: [_write(top / "v" / x) for x in ("pyvenv.cfg", "a.rb")],
    "the time": lambda top: os.utime(top / "nodes" / "words.rb", (1, 1)),
}


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1")


@pytest.mark.parametrize("what", NONE)
def test_what_does_not(tmp_path: Path, what: str) -> None:
    """Nothing that the program does not read, and no time of a file."""
    parts = project(tmp_path / "app")
    before = of(parts)
    NONE[what](tmp_path / "app")
    assert of(parts) == before


@pytest.mark.parametrize("manifest", [True, False])
def test_the_same_files_elsewhere(tmp_path: Path, manifest: bool) -> None:
    """A release has its own folder, and a machine its own paths; their version is the same."""
    parts = [project(tmp_path / name, manifest=manifest) for name in ("one", "two")]
    assert of(parts[0]) == of(parts[1])


def test_another_function_of_the_same_file(tmp_path: Path) -> None:
    """It is another program."""
    parts = project(tmp_path)
    other = launch.replace(parts, function="other")
    assert of(parts) != of(other)


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second version of the same files takes only a look at them."""
    parts = project(tmp_path)
    before = of(parts)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a file is read again")

    monkeypatch.setattr(Path, "open", fail)
    assert of(parts) == before


def test_a_command(tmp_path: Path) -> None:
    """It is what it resolves to, and the files among its words; not their folders."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.py").write_text("1")
    sh = shutil.which("sh")
    assert sh is not None

    def made(*argv: str, cwd: str = "one") -> str:
        env = {"PATH": os.environ["PATH"]}
        return version_of(Program(node="n", argv=argv, env=env, cwd=str(tmp_path / cwd)))

    assert made("sh", "run.py") == made(sh, "run.py") == made("sh", "run.py", cwd="two")
    assert made("sh", "run.py") == made("sh", str(tmp_path / "two" / "run.py"))
    before = made("sh", "run.py")
    (tmp_path / "one" / "run.py").write_text("2")
    assert made("sh", "run.py") != before
    assert made("sh", "run.py", "-x") != made("sh", "run.py", "-y")
    assert made("sh", "-c", "echo\0") != made("sh", "-c", "echo")
    assert made("no-such-command", "a") != made("no-such-command", "b")


def test_a_large_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning, its end and its size count, and it is not read as a whole."""
    monkeypatch.setattr(version, "_WHOLE", 100)
    monkeypatch.setattr(version, "_SAMPLE", 10)
    path = tmp_path / "binary"

    def written(data: bytes) -> bytes:
        path.write_bytes(data)
        return version.digest_of(path)

    base = written(b"a" * 200)
    assert written(b"b" + b"a" * 199) != base
    assert written(b"a" * 199 + b"b") != base
    assert written(b"a" * 201) != base
    assert written(b"a" * 100 + b"b" + b"a" * 99) == base


def test_a_process_that_starts_after_an_edit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its `ready` line and the snapshot have the new version, and one warning tells both."""
    file = tmp_path / "words.py"
    file.write_text("def words(msg):\n    return 1\n")
    router = Router()

    @router.node(("n",), name="words")
    class Words(ShellNode):
        file = str(tmp_path / "words.py")
        size = 1

    caplog.set_level(logging.INFO, "emit.node.words")
    with router:
        Words(n=0)
        [calls] = [c for c in host.current()._nodes if c.node == "words"]  # type: ignore[union-attr]
        first = calls.snapshot()["version"]
        # Of another length: Python's cache tells files of one second apart only by that.
        file.write_text("def words(msg):\n    return 1 + 1\n")
        assert Words(n=0) == ({"n": 1},)
        calls.pool.processes[0].child.kill_group()
        assert calls.pool.processes[0].child.wait(60.0)
        assert Words(n=0) == ({"n": 2},)
        figures = calls.snapshot()
    assert figures["version"] != first
    ready = re.findall(r"is ready after [\d.]+ s, version (\w+)", caplog.text)
    assert list(dict.fromkeys(ready)) == [first, figures["version"]]
    warnings = [r.getMessage() for r in caplog.records if "those before it" in r.getMessage()]
    assert len(warnings) == 1
    assert f"version {figures['version']}, and those before it have {first}" in warnings[0]


def test_a_start_tells_the_version_of_a_command(caplog: pytest.LogCaptureFixture) -> None:
    """A command has a version as well, in the row of each of its processes."""
    node = ShellNode()
    code = "for line in __import__('sys').stdin: print(1, flush=True)"
    name = "versioned"  # a node of another test in this process may be called n
    node.configure(name, {"command": [sys.executable, "-c", code], "mode": "lines"}, stream=False)
    try:
        assert list(node({})) == [1]
        [calls] = [c for c in host.current()._nodes if c.node == name]  # type: ignore[union-attr]
        figures = calls.snapshot()
        assert [row["version"] for row in figures["processes"]] == [figures["version"]]
        assert figures["version"] == version_of(node.find())
    finally:
        node.close()
