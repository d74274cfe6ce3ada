"""
The checks of ``emit doctor``: languages, packages and the system. Each check is a function that
yields its findings. ``emit new`` asks here, too, for the languages that are installed.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from emit.cli.output import CommandError
from emit.cli.project import node_files
from emit.errors import EmitError, StartError
from emit.host import status
from emit.host.host import Host
from emit.host.language import build
from emit.host.language.launch import installed_version, places, toolchain_of
from emit.host.language.missing import GRAPHVIZ, describe_install
from emit.host.language.runtime import Runtime, Source, runtimes
from emit.host.system.private import private
from emit.host.system.program import DEFAULT, Program, environment
from emit.multilang import ShellNode

#: Packages that Emit always needs, and the purpose of each.
_NEEDED = {"msgpack": "the wire", "orjson": "the wire"}
if sys.platform != "linux":
    _NEEDED["psutil"] = "memory and processor time"
#: Packages that only a part of Emit needs.
_OPTIONAL = {
    "celery": "CeleryRouter",
    "rq": "RQRouter",
    "redis": "emit dead, and the queues",
    "rich": "emit top, the bar of emit run",
    "graphviz": "emit graph --format svg",
}
#: What to install for the optional packages. Naming the package alone may bring a wrong version.
_EXTRAS = {
    "celery": "'emit-graph[celery]'",
    "rq": "'emit-graph[rq]'",
    "redis": "'emit-graph[celery]' or 'emit-graph[rq]'",
    "rich": "'emit-graph[cli]'",
    "graphviz": "'emit-graph[cli]'",
}


@dataclass(frozen=True)
class Checked:
    """
    The finding of one check.

    Attributes:
        group: The kind of thing: ``language``, ``package``, ``system`` or ``queue``.
        name: The name of the thing.
        state: ``ok``, ``absent`` (matters only to people who use it) or ``broken``.
        text: The finding, in one line.
        hint: What to do about it.
    """

    group: str
    name: str
    state: Literal["ok", "absent", "broken"]
    text: str
    hint: str = ""


def check_languages(scratch: Path) -> Iterator[Checked]:
    """Call a real node in each language that is installed, with its files in *scratch*."""
    with ThreadPoolExecutor() as together:
        tries = [(x, scratch / x.name) for x in runtimes().values()]
        yield from together.map(lambda each: _check_language(*each), tries)


def _check_language(language: Runtime, folder: Path) -> Checked:
    try:
        version = version_of(language)
    except StartError as error:
        state: Literal["absent", "broken"] = "absent" if "not found" in error.reason else "broken"
        return Checked("language", language.name, state, error.reason, error.hint)
    try:
        tried = try_out(language, folder)
    except CommandError as error:
        return Checked("language", language.name, "ok", f"{version}; not tried: {error}")
    except EmitError as error:
        return Checked("language", language.name, "broken", f"{version}: {error}")
    if not tried.is_right:
        text = f"{version}: a node has answered {tried.results!r}"
        return Checked("language", language.name, "broken", text)
    text = f"{version}, a node answers in {tried.seconds * 1000:.0f} ms, in {tried.codec}"
    return Checked("language", language.name, "ok", text)


def check_packages() -> Iterator[Checked]:
    """Check the Python packages, and the program ``dot`` that one of them runs."""
    for name, purpose in {**_NEEDED, **_OPTIONAL}.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            state: Literal["absent", "broken"] = "broken" if name in _NEEDED else "absent"
            hint = f"pip install {_EXTRAS.get(name, 'emit-graph')}"
            yield Checked("package", name, state, f"not installed; for {purpose}", hint)
        else:
            yield Checked("package", name, "ok", version)
    dot = shutil.which("dot")
    if dot is None:
        hint = describe_install(GRAPHVIZ)
        yield Checked("package", "dot", "absent", "not found; for emit graph --format svg", hint)
    else:
        yield Checked("package", "dot", "ok", dot)


def check_system() -> Iterator[Checked]:
    """Check what keeps programs from outliving their host, and the socket of ``emit top``."""
    if sys.platform == "linux":
        for name, (test, lost) in _KERNEL.items():
            works = _works(test)
            yield Checked("system", name, "ok" if works else "absent", "" if works else lost)
    else:
        text = f"{sys.platform} has none of Linux's: programs end at the end of their input"
        yield Checked("system", "orphan guard", "absent", text)
    try:
        where = private(status.folder())
        yield Checked("system", "status socket", "ok", str(where))
    except OSError as error:
        hint = "chmod 700 it, or remove it"
        yield Checked("system", "status socket", "absent", f"emit top sees nothing: {error}", hint)


def _works(test: Callable[[], object]) -> bool:
    try:
        return bool(test())
    except (OSError, AttributeError):
        return False


def _has_pidfd() -> bool:
    os.close(os.pidfd_open(os.getpid()))
    return True


def _tells_parents_death() -> bool:
    signal = ctypes.c_int()
    get_pdeathsig = 2  # of <sys/prctl.h>; a kernel that can read it can set it
    failed = ctypes.CDLL(None).prctl(get_pdeathsig, ctypes.byref(signal), 0, 0, 0)
    return not failed


def _has_children() -> bool:
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def _shows_environment() -> bool:
    return len(Path("/proc/self/environ").read_bytes()) > 0


#: Features of Linux: the test of each, and the loss without it.
_KERNEL = {
    "death of parent": (_tells_parents_death, "a killed host leaves programs to the sentinel"),
    "pidfd": (_has_pidfd, "Linux 5.4 or later: a death is seen 50 ms late"),
    "children": (_has_children, "/proc has no children: memory of children is found slowly"),
    "environ": (_shows_environment, "/proc shows no environ: what detaches itself may be left"),
}


# -- The languages of this machine -----------------------------------------------------------------

#: The message for each language's example node, and the results that it has to give.
_QUESTION = {"text": "it works"}
_ANSWER = [{"word": "it", "length": 2}, {"word": "works", "length": 5}]


class Tried(NamedTuple):
    """The outcome of a node in a language: seconds until the answer, its codec, its results."""

    seconds: float
    codec: str
    results: list[object]

    @property
    def is_right(self) -> bool:
        return self.results == _ANSWER


@contextmanager
def aside(stay: bool = False) -> Iterator[Path]:
    """
    Provide an empty folder that nobody else can write to. It becomes the current folder, unless
    *stay* is True: the languages and the Python of the folder before may be a stranger's.

    Raises:
        CommandError: There is no place for this folder.
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
            here = os.open(".", os.O_RDONLY)  # by number: a removed folder has no path
            left.callback(os.close, here)
            left.callback(os.fchdir, here)
            os.chdir(folder)
        yield Path(folder)


def version_of(language: Runtime) -> str:
    """
    Return the version of a language's toolchain; "" if the toolchain does not tell.

    Raises:
        StartError: The toolchain is missing or too old.
    """
    program = Program(node=language.name, argv=(), env=environment({}, DEFAULT))
    source = Source(Path.cwd() / f"node{language.suffixes[0]}", "", language)
    return installed_version(program, toolchain_of(language, places(source, None)))


def installed() -> list[Runtime]:
    """Return the languages that work on this machine."""
    return [language for language in runtimes().values() if _is_installed(language)]


def _is_installed(language: Runtime) -> bool:
    try:
        version_of(language)
    except StartError:
        return False
    return True


def try_out(language: Runtime, folder: Path) -> Tried:
    """
    Write a node to *folder*, start it and give it a message.

    Raises:
        CommandError: The language has no template.
        EmitError: The node does not start, or fails.
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
