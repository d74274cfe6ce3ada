"""The languages of this machine: which are here, and whether a node in each works."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from emit.cli.errors import CommandError
from emit.cli.templates import node_files
from emit.errors import StartError
from emit.host.host import Host
from emit.host.language import build
from emit.host.language.launch import installed_version, places, toolchain_of
from emit.host.language.runtime import Runtime, Source, runtimes
from emit.host.system.environment import DEFAULT, environment
from emit.host.system.program import Program
from emit.multilang import ShellNode

#: What each language's own example is given, and what it has to answer.
_QUESTION = {"text": "it works"}
_ANSWER = [{"word": "it", "length": 2}, {"word": "works", "length": 5}]


class Tried(NamedTuple):
    """What came of a node in a language: seconds until it was ready, its codec, its results."""

    seconds: float
    codec: str
    results: list[object]

    @property
    def is_right(self) -> bool:
        return self.results == _ANSWER


@contextmanager
def aside(stay: bool = False) -> Iterator[Path]:
    """
    Give an empty folder that nobody else can write to, as the current one unless told to *stay*:
    the languages and the Python of the folder that one is in may be a stranger's.

    Raises:
        CommandError: There is no place for such a folder.
    """
    for name in ("EMIT_RUNTIMES", "EMIT_SHARE"):
        if value := os.environ.get(name):
            paths = (os.path.abspath(path) for path in value.split(os.pathsep) if path)
            os.environ[name] = os.pathsep.join(paths)
    try:
        above = build.place(Program(node="a node to try", argv=(), env={}), "tries")
    except StartError as error:
        raise CommandError(f"{error.reason}; {error.hint}") from error
    with tempfile.TemporaryDirectory(dir=above) as folder, ExitStack() as left:
        if not stay:
            here = os.open(".", os.O_RDONLY)  # which may have been removed, and has no path then
            left.callback(os.close, here)
            left.callback(os.fchdir, here)
            os.chdir(folder)
        yield Path(folder)


def version_of(language: Runtime) -> str:
    """
    The version of a language's toolchain; "" where it tells none.

    Raises:
        StartError: It is not here, or too old.
    """
    program = Program(node=language.name, argv=(), env=environment({}, DEFAULT))
    source = Source(Path.cwd() / f"node{language.suffixes[0]}", "", language)
    return installed_version(program, toolchain_of(language, places(source, None)))


def installed() -> list[Runtime]:
    """The languages that can be used here."""
    return [language for language in runtimes().values() if _is_installed(language)]


def _is_installed(language: Runtime) -> bool:
    try:
        version_of(language)
    except StartError:
        return False
    return True


def try_out(language: Runtime, folder: Path) -> Tried:
    """
    Write a node in *folder*, start it and give it a message.

    Raises:
        CommandError: The language has no example.
        EmitError: It does not start, or fails.
    """
    [(path, text)] = node_files(language, "words", folder, sdk=False, test=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    node = ShellNode()
    file = path.parent if language.folders else path
    node.configure("words", {"file": file, "cwd": str(folder)}, stream=False)
    with closing(Host()) as host:
        began = time.monotonic()
        calls = node.calls_on(host, size=1)
        calls.prepare()
        results = calls.call(_QUESTION)
        [process] = calls.pool.processes
        return Tried(time.monotonic() - began, process.talk.session.codec, results)
