"""
The languages that a file can be written in: ``<language>/runtime.toml``, read and checked.

A project's own are in ``emit_runtimes/`` of the current directory, and in the folders that
``$EMIT_RUNTIMES`` names; they are looked at before those that come with Emit, so that one of
the same name or suffix replaces it. docs/runtimes.md tells the keys.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emit import share
from emit.errors import GraphError
from emit.text import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Runtime", "Source", "fill", "language_of", "locate", "name_of", "runtimes"]

_log = logging.getLogger("emit")

#: What may stand in braces, and where each is told: docs/runtimes.md.
PLACES = ("runtime", "file", "function", "output", "manifest", "python", "name", "package")

#: The only keys that may hold ``{package}``, and the only places that they may hold.
_HINTS = ("dependencies.listed", "dependencies.managers", "dependencies.alone")
_HINT_PLACES = ("package", "python")

#: Keys that need another one.
_NEEDS = {
    "dependencies.missing": "dependencies.alone",
    "dependencies.listed": "dependencies.managers",
    "dependencies.managers": "dependencies.manifest",
    "picture.fill": "picture.ink",
    "picture.ink": "picture.fill",
}

#: Each key of a runtime.toml, its type, and the field of a Runtime that takes it.
_KEYS: dict[str, tuple[str, str]] = {
    "name": ("a string", "name"),
    "suffixes": ("a list of strings", "suffixes"),
    "folders": ("true or false", "folders"),
    "dialects": ("a table of strings", "dialects"),
    "programs": ("a list of strings", "programs"),
    "detect.command": ("a list of strings", "detect"),
    "detect.minimum": ("a string", "minimum"),
    "detect.install": ("a string or a table of strings", "install"),
    "dependencies.manifest": ("a string", "manifest"),
    "dependencies.check": ("a list of strings", "check"),
    "dependencies.install": ("a string", "install_dependencies"),
    "dependencies.installer": ("a string or a table of strings", "installer"),
    "dependencies.prefix": ("a list of strings", "prefix"),
    "dependencies.env": ("a table of strings", "manifest_env"),
    "dependencies.missing": ("a list of regular expressions with a group", "missing"),
    "dependencies.sdk": ("a table of strings", "sdk"),
    "dependencies.listed": ("a regular expression", "listed"),
    "dependencies.managers": ("a table of pairs of strings", "managers"),
    "dependencies.alone": ("a string", "alone"),
    "build.command": ("a list of strings", "build"),
    "launch.command": ("a list of strings", "launch"),
    "launch.env": ("a table of strings", "env"),
    "test.command": ("a list of strings", "test"),
    "test.test_file": ("a string", "test_file"),
    "test.sdk_env": ("a table of strings", "test_sdk_env"),
    "debug.command": ("a list of strings", "debug"),
    "picture.fill": ("a colour such as #dbeafe", "fill"),
    "picture.ink": ("a colour such as #dbeafe", "ink"),
}
_REQUIRED = ("name", "suffixes", "detect.command", "launch.command")
_TABLES = frozenset(key.partition(".")[0] for key in _KEYS if "." in key)

_FUNCTION = re.compile(r"[^\W\d]\w*[?!]?")  # Ruby's may end so
_PLACE = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True)
class Runtime:
    """
    The way to run the files of one language. Commands may hold places such as ``{file}``: see
    `fill`.

    Attributes:
        name: The language.
        folder: Where its runtime.toml, its launcher and its ``template/`` are.
        suffixes: Of its files, with their dots.
        folders: A folder that holds such files is a node as well.
        dialects: Suffixes of files in another form of the language, by its name: ``emit new`` has
            templates for each.
        programs: Programs that run its files, by which the language of a command is told.
        detect: Prints the version of the toolchain: the first dotted number of its output.
        minimum: The least version; empty: any.
        install: What to tell who lacks it, by the program of the machine that would install it.
        manifest: The file that lists dependencies; empty: there is none.
        check: Ends with 0 when all of them are there. Run only after a start has failed.
        install_dependencies: What to tell when they are not.
        installer: How to install the program of ``prefix`` and of ``alone``, as ``install`` is.
        prefix: Put before the launch command if there is a manifest.
        manifest_env: Added to the environment if there is a manifest.
        missing: Each finds the name of a package in the words of a program that lacks it.
        sdk: The package of Emit's SDK, by the name that a program loads.
        listed: Finds the line of ``{package}`` in the manifest.
        managers: How a project's packages are all installed, and how ``{package}`` is added, by the
            lock file of the package manager. The first one is for a project without a lock file.
        alone: How ``{package}`` is installed for a file without a manifest.
        build: Makes ``{output}``; empty: nothing is built.
        launch: Starts the node.
        env: Added to the node's environment.
        test: Runs an author's test file.
        test_file: The name of a test file, with ``{name}`` for the node's.
        test_sdk_env: Added to the environment of a test of a node that uses the SDK.
        debug: Runs the file under a debugger: shown, not run.
        fill: The colour of its nodes in a picture; empty: that of any program.
        ink: The colour of the text in them.
    """

    name: str
    folder: Path
    suffixes: tuple[str, ...]
    detect: tuple[str, ...]
    launch: tuple[str, ...]
    folders: bool = False
    dialects: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    minimum: str = ""
    install: Mapping[str, str] = field(default_factory=dict)
    manifest: str = ""
    check: tuple[str, ...] = ()
    install_dependencies: str = ""
    installer: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    manifest_env: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    sdk: Mapping[str, str] = field(default_factory=dict)
    listed: str = ""
    managers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    alone: str = ""
    build: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    test: tuple[str, ...] = ()
    test_file: str = ""
    test_sdk_env: Mapping[str, str] = field(default_factory=dict)
    debug: tuple[str, ...] = ()
    fill: str = ""
    ink: str = ""

    def takes(self, path: Path) -> bool:
        """Return True for a file of this language; for a folder of them if it takes folders."""
        if path.is_dir():
            return self.folders and any(map(self.reads, _items(path)))
        return path.name.endswith(self.suffixes)

    def reads(self, path: Path) -> bool:
        """Return True for a file of this language, and not for what an editor leaves beside it."""
        return path.name.endswith(self.suffixes) and path.name[0] != "." and path.is_file()


@dataclass(frozen=True)
class Source:
    """
    A file, or a folder, that is to be a node.

    Attributes:
        path: Absolute.
        function: Which of its functions it is; empty: the launcher finds it.
        runtime: Its language.
    """

    path: Path
    function: str
    runtime: Runtime


def locate(node: str, file: str | os.PathLike[str], cwd: str | None = None) -> Source:
    """
    Find what ``file`` of a node names.

    Args:
        node: The node's name, for errors.
        file: A path, or ``path:function``; relative to *cwd*.
        cwd: The node's directory; None: the current one.

    Raises:
        GraphError: There is none, its language is not known, or the function is no name.

    Example:
        >>> locate("words", "nodes/words.rb:split")  # doctest: +SKIP
        Source(path=PosixPath('/app/nodes/words.rb'), function='split', runtime=...)
    """
    name, colon, function = os.fspath(file).rpartition(":")
    if not colon or "/" in function:
        name, colon, function = os.fspath(file), "", ""
    about = f'"{node}": file = {os.fspath(file)!r}'
    if colon and not _FUNCTION.fullmatch(function):
        raise GraphError(f"{about}: {function!r} is no name of a function; write path:function")
    path = _path(about, name, cwd)
    base = f"cwd = {cwd!r}" if cwd else "the current directory, or set cwd"
    try:
        if not name or not path.exists():
            near = nearest(path.name, (item.name for item in _items(path.parent)))
            raise GraphError(f"{about}: there is no {path}{near}; give a path relative to {base}")
        return Source(path, function, _language(about, path))
    except OSError as error:  # a folder that this user may not look into
        raise GraphError(f"{about}: {error.filename} can't be read: {error.strerror}") from error


def _path(about: str, name: str, cwd: str | None) -> Path:
    """
    The file's absolute path, without ``..``: what is above the file is looked for by its path.

    A link before ``..`` is followed, as the system does; others stay, as a folder such as
    ``current`` may come to mean another one.
    """
    path = Path(cwd or "", name)
    if not path.is_absolute():
        try:
            path = Path.cwd() / path
        except FileNotFoundError as error:
            raise GraphError(
                f"{about}: the current directory of this process has been removed, so a relative "
                f"path leads nowhere; give an absolute path or cwd, or start again from elsewhere"
            ) from error
    if ".." not in path.parts:
        return path
    last = len(path.parts) - path.parts[::-1].index("..")
    return Path(os.path.realpath(Path(*path.parts[:last])), *path.parts[last:])


def _items(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def runtimes() -> dict[str, Runtime]:
    """
    All languages by name, in the order in which they are asked.

    Raises:
        GraphError: A runtime.toml that cannot be used; the text has its path and the key.
    """
    found: dict[str, Runtime] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*/runtime.toml")):
            runtime = _read(path, path.stat().st_mtime_ns)
            found.setdefault(runtime.name, runtime)
    return found


def language_of(argv: Sequence[str]) -> str:
    """
    Return the language of a command: that of the first file in it, or of its program. If no
    language has either, return the program's name.

    Example:
        >>> language_of(["bundle", "exec", "words.rb"]), language_of(["python3.11", "-m", "words"])
        ('ruby', 'python')
        >>> language_of(["/usr/bin/jq", "-c", "."])
        'jq'
    """
    known = _known()
    for word in argv:
        for runtime in known:
            if word.endswith(runtime.suffixes):
                return runtime.name
    program = os.path.basename(argv[0]) if argv else ""
    plain = re.sub(r"(?<=[a-z])[\d.]+$", "", program)
    running = (runtime.name for runtime in known if {program, plain} & {*runtime.programs})
    return next(running, plain)


def name_of(argv: Sequence[str]) -> str:
    """
    Return what a command is called in logs: the first file in it, or its program, without folders.

    Example:
        >>> name_of(["python3.11", "/srv/app/text.py", "-v"]), name_of(["./prog"])
        ('text.py', 'prog')
    """
    suffixes = tuple(suffix for runtime in _known() for suffix in runtime.suffixes)
    files = (word for word in argv if word.endswith(suffixes))
    return os.path.basename(next(files, argv[0] if argv else ""))


def _known() -> list[Runtime]:
    """
    Return all languages, or none if one of them can't be read. A command needs no language to run,
    so only nodes of files fail then.
    """
    try:
        return list(runtimes().values())
    except GraphError as error:
        _log.warning("the languages of commands are not known: %s", error)
        return []


def fill(words: Iterable[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """
    Put *values* where *words* have their names in braces.

    Raises:
        KeyError: A place has no value here, as ``{output}`` without a build.

    Example:
        >>> fill(["ruby", "{runtime}/launch.rb"], {"runtime": "/ruby"})
        ('ruby', '/ruby/launch.rb')
    """
    return tuple(_PLACE.sub(lambda place: values[place[1]], word) for word in words)


def _folders() -> Iterator[Path]:
    named = os.environ.get("EMIT_RUNTIMES", "").split(os.pathsep)
    for name in filter(None, [*named, "emit_runtimes"]):
        with contextlib.suppress(FileNotFoundError):  # the current directory has been removed
            yield Path(os.path.abspath(name))
    try:
        yield share.find("runtimes")
    except FileNotFoundError as error:
        raise GraphError(f"no language is known: {error}") from error


def _language(about: str, path: Path) -> Runtime:
    known = runtimes()
    for runtime in known.values():
        if runtime.takes(path):
            return runtime
    if path.is_dir():
        names = ", ".join(runtime.name for runtime in known.values() if runtime.folders)
        raise GraphError(
            f"{about}: it is a folder, and must hold files of one of: {names or 'no language'}"
        )
    raise GraphError(f"{about}: {no_language(path.name, known.values())}")


def no_language(name: str, known: Iterable[Runtime]) -> str:
    """Say that no language has files such as *name*, and how a project adds one."""
    suffixes = " ".join(sorted({suffix for runtime in known for suffix in runtime.suffixes}))
    return (
        f"no language has files such as {name} (known: {suffixes}); a folder "
        f"emit_runtimes/<language> with a runtime.toml adds one to your project, and "
        f"command = [...] runs any program"
    )


@functools.lru_cache
def _read(path: Path, mtime: int) -> Runtime:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # no TOML, or no UTF-8
        raise GraphError(f"{path}: {error}") from error
    facts = dict(_flat(path, document))
    for key in _REQUIRED:
        if key not in facts:
            raise GraphError(f"{path}: {key} is missing")
    for key, value in facts.items():
        if reason := _wrong(key, value):
            raise GraphError(f"{path}: {key} = {value!r}: {reason}")
        if (needed := _NEEDS.get(key, key)) not in facts:
            raise GraphError(f"{path}: {key} needs {needed}, which is missing")
        if _KEYS[key][0] == "a string or a table of strings" and isinstance(value, str):
            facts[key] = {"": value}
    fields = {_KEYS[key][1]: _frozen(value) for key, value in facts.items()}
    return Runtime(folder=path.parent, **fields)


def _flat(path: Path, document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if key in _TABLES and isinstance(value, dict):
            yield from ((f"{key}.{inner}", item) for inner, item in value.items())
        else:
            yield key, value


def _wrong(key: str, value: Any) -> str:
    """Return the reason why *value* is wrong for *key*; empty if it is right."""
    if key not in _KEYS:
        return f"there is no such key; there are {', '.join(_KEYS)}"
    kind = _KEYS[key][0]
    if not _is(kind, value):
        return f"must be {kind}"
    if key == "suffixes" and not (value and all(suffix[0] == "." for suffix in value)):
        return "must be one suffix or more, each with its dot"
    if key.endswith("command") and not value:
        return "must name a program"
    if key == "detect.minimum" and not re.fullmatch(r"\d+(\.\d+)*", value):
        return "must be numbers with dots between them"
    return _unknown_place(key, value)


def _is(kind: str, value: Any) -> bool:
    match kind:
        case "a string":
            return isinstance(value, str) and value != ""
        case "a colour such as #dbeafe":
            return isinstance(value, str) and bool(re.fullmatch("#[0-9a-fA-F]{6}", value))
        case "true or false":
            return isinstance(value, bool)
        case "a string or a table of strings":
            return _is("a string", value) or _is("a table of strings", value)
        case "a list of strings":
            return isinstance(value, list) and all(_is("a string", item) for item in value)
        case "a list of regular expressions with a group":
            patterns = value if _is("a list of strings", value) else [""]
            return all(_is("a regular expression", x) and re.compile(x).groups for x in patterns)
        case "a regular expression":
            with contextlib.suppress(re.error):
                return isinstance(value, str) and bool(re.compile(value))
            return False
        case "a table of pairs of strings":
            pairs = value.values() if isinstance(value, dict) else [()]
            return all(_is("a list of strings", pair) and len(pair) == 2 for pair in pairs)
        case _:
            return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _unknown_place(key: str, value: Any) -> str:
    if key == "dependencies.missing":
        return ""  # a regular expression's braces are its own
    known = _HINT_PLACES if key in _HINTS else tuple(x for x in PLACES if x != "package")
    for word in _words(value):
        for name in _PLACE.findall(word):
            if name not in known:
                return f"{{{name}}} stands for nothing; there are {', '.join(known)}"
    return ""


def _words(value: Any) -> Iterable[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [word for item in value.values() for word in _words(item)]
        case list():
            return value
        case _:
            return []


def _frozen(value: Any) -> Any:
    match value:
        case list():
            return tuple(value)
        case dict():
            return {name: _frozen(item) for name, item in value.items()}
        case _:
            return value
