"""
From a file to the program that serves it: is its language here, and new enough; are the packages
that it asks for; is it built?

What was found out is remembered for as long as nothing that it depends on changes. A failure is
remembered for `RETRY` seconds, so that a queue full of messages does not run a failing compiler
for each.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from emit.errors import CallTimeout, ProcessDied, StartError
from emit.host import oneshot
from emit.host.language import build
from emit.host.language.runtime import Runtime, Source, fill
from emit.host.system.command import resolve, start_error
from emit.host.system.lifeline import interpreter
from emit.host.system.program import Program

__all__ = ["installed_version", "places", "prepare"]

#: Seconds for which a failure stands before it is looked at again.
RETRY = 5.0

#: Seconds for `ruby --version`, or for `bundle check`. A version manager's shim takes one.
CHECK_TIMEOUT = 60.0

_DOTTED, _PLAIN = re.compile(rb"\d+(?:\.\d+)+"), re.compile(rb"\d+")

#: What was found out, and what has failed: when, and the facts of its StartError.
_known: dict[Any, Any] = {}
_failed: dict[Any, tuple[float, dict[str, Any]]] = {}
_FACTS = ("argv", "reason", "hint", "stderr_tail")


def prepare(program: Program, source: Source, own: Mapping[str, str]) -> Program:
    """
    Make the program that serves *source*.

    Args:
        program: Its node, environment and directory; its ``argv`` is not looked at.
        source: What to serve; see `emit.host.language.runtime.locate`.
        own: What the node itself adds to the environment: it wins over what the language adds.

    Returns:
        *program* with the command of the language's launcher, and with its environment.

    Raises:
        StartError: The language is not here or too old, a package that the file asks for is
            not installed, the file is gone, or it could not be built. ``hint`` is what to do.
    """
    runtime, program = source.runtime, replace(program, argv=(str(source.path),))
    if not source.path.exists():
        raise start_error(program, "the file is gone", "it was there when the node was declared")
    values = places(source, program.cwd)
    added = {**runtime.env, **(runtime.manifest_env if "manifest" in values else {})}
    program = replace(program, env={**program.env, **_filled(added, values), **own})
    version = installed_version(program, runtime, values)
    _check_dependencies(program, runtime, values)
    if runtime.build:
        values["output"] = str(_built(program, source, values, version))
    prefix = runtime.prefix if "manifest" in values else ()
    launch = (word for word in runtime.launch if word != "{function}" or source.function)
    return replace(program, argv=fill((*prefix, *launch), values), language=runtime.name)


def places(source: Source, cwd: str | None) -> dict[str, str]:
    """
    What the places of a language's commands stand for, but for ``{output}``.

    Args:
        cwd: The node's directory; None: the current one. A ``.venv`` and a manifest are looked
            for from the file's folder up to it.
    """
    folders = _folders(source.path, cwd)
    values = {
        "runtime": str(source.runtime.folder),
        "file": str(source.path),
        "function": source.function,
        "name": source.path.stem,
        "python": _first(folders, ".venv/bin/python") or interpreter(),
    }
    manifest = _first(folders, source.runtime.manifest) if source.runtime.manifest else ""
    return {**values, "manifest": manifest} if manifest else values


def _folders(path: Path, cwd: str | None) -> list[Path]:
    here = path if path.is_dir() else path.parent
    top = Path(cwd or os.getcwd()).absolute()
    return [here, *(folder for folder in here.parents if folder.is_relative_to(top))]


def _first(folders: list[Path], name: str) -> str:
    # A link to a Python that is gone is found, too: to run another one would not be seen.
    return next((str(path) for folder in folders if os.path.lexists(path := folder / name)), "")


def _filled(env: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    return {name: fill((value,), values)[0] for name, value in env.items()}


def installed_version(program: Program, runtime: Runtime, values: Mapping[str, str]) -> str:
    """
    The version of *runtime*'s toolchain, by the PATH of *program*; "" where it tells none.

    Raises:
        StartError: There is no toolchain, it does not run, or it is older than the minimum.
    """
    hint = f"install it: {runtime.install}" if runtime.install else "install it"
    asking = replace(program, argv=fill(runtime.detect, values))
    try:
        asking = resolve(asking)
        changed = os.stat(asking.argv[0]).st_mtime_ns
    except (StartError, OSError) as error:
        name = asking.argv[0]
        where = f"looked at {name}" if os.sep in name else f"PATH = {asking.env.get('PATH', '')}"
        raise start_error(asking, f"{runtime.name} was not found", f"{hint}; {where}") from error
    # A version manager's shim goes by the environment and the directory.
    key = ("version", asking.argv, changed, asking.cwd, frozenset(asking.env.items()))
    version: str = _remember(program, key, lambda: _ask_version(asking, runtime, hint))
    if _numbers(version) < _numbers(runtime.minimum):
        reason = f"{runtime.name} {version or '(of no known version)'} is older than"
        raise start_error(asking, f"{reason} {runtime.minimum}", hint)
    return version


def _ask_version(asking: Program, runtime: Runtime, hint: str) -> str:
    said = _run(asking, f"{runtime.name} does not tell its version", hint)
    found = _DOTTED.search(said) or _PLAIN.search(said)
    return found[0].decode() if found else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split("."))) if version else ()


def _check_dependencies(program: Program, runtime: Runtime, values: Mapping[str, str]) -> None:
    if "manifest" not in values or not runtime.check:
        return
    manifest = Path(values["manifest"])
    checking = replace(program, argv=fill(runtime.check, values), cwd=str(manifest.parent))
    # What it asks for is in it and in its lock file, and both change when that does.
    stamps = {file.name: file.stat().st_mtime_ns for file in manifest.parent.glob("*[Ll]ock*")}
    key = ("packages", checking.argv, str(manifest), manifest.stat().st_mtime_ns, str(stamps))
    reason = f"not all is installed that {manifest} asks for"
    hint = f"run: {runtime.install_dependencies or 'its installer'}, in {manifest.parent}"
    _remember(program, key, lambda: _run(checking, reason, hint, runtime.installer))


def _built(program: Program, source: Source, values: dict[str, str], version: str) -> Path:
    try:
        output = build.output(program, source, values, version)
    except OSError as error:
        raise start_error(program, f"{error.filename}: {error.strerror}", "") from error
    if not build.is_built(output):
        key = ("build", str(output))
        _attempt(program, key, lambda: build.build(program, source, values, output))
    return output


def _remember(program: Program, key: Any, find_out: Callable[[], Any]) -> Any:
    if key not in _known:
        _known[key] = _attempt(program, key, find_out)
    return _known[key]


def _attempt(program: Program, key: Any, action: Callable[[], Any]) -> Any:
    """Not again within `RETRY` seconds after it has failed."""
    when, failure = _failed.get(key, (0.0, {}))
    if failure and time.monotonic() - when < RETRY:
        raise StartError(node=program.node, **failure)
    try:
        return action()
    except StartError as error:
        # Anew each time: an exception that is kept would keep the frames of its traceback.
        _failed[key] = time.monotonic(), {name: getattr(error, name) for name in _FACTS}
        raise


def _run(program: Program, reason: str, hint: str, installer: str = "") -> bytes:
    """What a program prints; a StartError with its last words where it fails."""
    try:
        return b"".join(oneshot.run(program, b"", timeout=CHECK_TIMEOUT))
    except (ProcessDied, CallTimeout) as error:
        if isinstance(error, ProcessDied) and (error.exit_code, error.signal) == (None, None):
            hint = "nobody knows, as SIGCHLD is ignored here: signal.signal(SIGCHLD, SIG_DFL)"
        raise start_error(program, reason, hint, error.stderr_tail) from error
    except StartError as error:
        why = f"{reason}: {program.argv[0]}: {error.reason}"
        first = f"install it: {installer}; then " if installer else ""
        raise start_error(program, why, first + hint) from error
