"""
Makes the program that serves a file, and builds it if needed. After a failed start, looks for
faults of the language and the packages.

The version of a toolchain is remembered as long as nothing it depends on changes. A failure is
remembered for `RETRY` seconds, so that a queue full of messages does not run a failing compiler for
each of them.
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
from emit.host.language.missing import describe_install
from emit.host.language.runtime import Runtime, Source, fill
from emit.host.lines import logger_of
from emit.host.system.command import directory_of, resolve, start_error
from emit.host.system.lifeline import interpreter
from emit.host.system.program import Program, Toolchain
from emit.host.system.version import version_of

__all__ = ["explain", "installed_version", "places", "prepare", "toolchain_of"]

#: Seconds for which a failure is remembered.
RETRY = 5.0

#: Seconds before a build that was killed is tried again.
_PAUSE = 0.2

#: Seconds for `ruby --version`, or for a check of packages. A version manager's shim takes one.
CHECK_TIMEOUT = 20.0

_DOTTED, _PLAIN = re.compile(rb"\d+(?:\.\d+)+"), re.compile(rb"\d+")

#: Results so far; and failures, each with its time and the facts of its StartError.
_known: dict[Any, Any] = {}
_failed: dict[Any, tuple[float, dict[str, Any]]] = {}
_FACTS = ("argv", "reason", "hint", "stderr_tail", "signal")


def prepare(program: Program, source: Source, own: Mapping[str, str], attempts: int = 1) -> Program:
    """
    Make the program that serves *source*.

    Faults that the start itself would show are not checked here. A toolchain that looks too old, or
    a package that seems to be missing, must not stop a program that would run.
    `Program.explain` checks both after a failed start.

    Args:
        program: The node, its environment and its directory; its ``argv`` is not used.
        source: The file to serve; see `emit.host.language.runtime.locate`.
        own: Environment variables of the node itself. They override those of the language.
        attempts: Number of tries of a build that is killed.

    Returns:
        *program* with the command of the language's launcher, and with its environment.

    Raises:
        StartError: The file is gone, it does not build, or the command is not there. ``hint`` says
            what to do.
    """
    runtime, program = source.runtime, replace(program, argv=(str(source.path),))
    if not source.path.exists():
        raise start_error(program, "the file is gone", "it was there when the node was declared")
    values = places(source, program.cwd)
    added = {**runtime.env, **(runtime.manifest_env if "manifest" in values else {})}
    env = {**program.env, **_filled(added, values), **own}
    program = replace(program, env=env, toolchain=toolchain_of(runtime, values))
    program = replace(program, parts=build.parts_of(program, source, values))
    if runtime.build:
        program, values["output"] = _built(program, source, values, attempts)
    prefix = runtime.prefix if "manifest" in values else ()
    launch = (word for word in runtime.launch if word != "{function}" or source.function)
    argv = fill((*prefix, *launch), values)
    return _present(
        replace(program, argv=argv, language=runtime.name, name=source.path.name),
        runtime,
        bool(prefix),
    )


def toolchain_of(runtime: Runtime, values: Mapping[str, str]) -> Toolchain:
    """Return the toolchain of a language, with the `places` of a file filled in."""
    has_manifest = "manifest" in values
    return Toolchain(
        name=runtime.name,
        detect=fill(runtime.detect, values),
        minimum=runtime.minimum,
        install=runtime.install,
        manifest=values.get("manifest", ""),
        check=fill(runtime.check, values) if has_manifest else (),
        install_packages=runtime.install_dependencies,
        explain=explain,
    )


def _present(program: Program, runtime: Runtime, prefixed: bool) -> Program:
    """Return *program* as it is if its command is there; else raise what it lacks."""
    try:
        found = resolve(program).argv[0]
        if not os.path.exists(found):
            raise start_error(program, "command not found", f"looked at {found}")
    except StartError as error:
        if prefixed and runtime.installer:
            hint = f"install it: {describe_install(runtime.installer)}"
            raise start_error(program, error.reason, hint) from error
        assert program.toolchain is not None
        _find(program, program.toolchain)
        raise
    return program


def places(source: Source, cwd: str | None) -> dict[str, str]:
    """
    Return the values of the placeholders in a language's commands, without ``{output}``.

    Args:
        source: The file to serve.
        cwd: The node's directory; None: the current one. A ``.venv`` and a manifest are searched
            from the file's folder up to this directory.
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
    try:
        top = Path(os.path.abspath(cwd or os.getcwd()))
    except FileNotFoundError:  # the current directory was removed, so nothing is below it
        return [here]
    return [here, *(folder for folder in here.parents if folder.is_relative_to(top))]


def _first(folders: list[Path], name: str) -> str:
    # Finds a link to a missing Python, too: else another Python would run without notice.
    return next((str(path) for folder in folders if os.path.lexists(path := folder / name)), "")


def _filled(env: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    return {name: fill((value,), values)[0] for name, value in env.items()}


def installed_version(program: Program, toolchain: Toolchain) -> str:
    """
    Return the version of a toolchain on the PATH of *program*; "" if it prints none.

    Raises:
        StartError: The toolchain is missing, does not run, or is older than the minimum.
    """
    asking = _find(program, toolchain)
    changed = os.stat(asking.argv[0]).st_mtime_ns
    # A version manager's shim depends on the environment and the directory.
    key = ("version", asking.argv, changed, asking.cwd, frozenset(asking.env.items()))
    version: str = _remember(asking, key, lambda: _ask_version(asking, toolchain))
    if _numbers(version) < _numbers(toolchain.minimum):
        reason = f"{toolchain.name} {version or '(of no known version)'} is older than"
        hint = f"install it: {describe_install(toolchain.install)}"
        raise start_error(asking, f"{reason} {toolchain.minimum}", hint)
    return version


def _find(program: Program, toolchain: Toolchain) -> Program:
    """Return the command that prints a toolchain's version. Raise StartError if it is missing."""
    asking = replace(program, argv=toolchain.detect, toolchain=None)
    try:
        found = resolve(asking)
        os.stat(found.argv[0])  # `resolve` does not check a path
    except (StartError, OSError) as error:
        name = asking.argv[0]
        where = f"looked at {name}" if os.sep in name else f"PATH = {asking.env.get('PATH', '')}"
        hint = f"install it: {describe_install(toolchain.install)}; {where}"
        raise start_error(asking, f"{toolchain.name} was not found", hint) from error
    return found


def explain(program: Program, packages: bool) -> str:
    """Find the known faults of a program whose start has failed: see `Toolchain.explain`."""
    toolchain = program.toolchain
    if toolchain is None:
        return ""
    found = []
    try:
        installed_version(program, toolchain)
    except StartError as error:
        found.append(_in_a_line(error))
    if toolchain.check and packages:
        folder = os.path.dirname(toolchain.manifest)
        checking = replace(program, argv=toolchain.check, cwd=folder, toolchain=None)
        hint = f"run: {toolchain.install_packages or 'its installer'}, in {folder}"
        try:
            _run(checking, f"not all is installed that {toolchain.manifest} asks for", hint)
        except StartError as error:
            found.append(_in_a_line(error))
    try:
        directory_of(program)
    except StartError as error:
        found.append(_in_a_line(error))
    return "; ".join(found)


def _in_a_line(error: StartError) -> str:
    said = error.stderr_tail.strip().splitlines()
    words = f" ({said[-1]})" if said else ""
    return f"{error.reason}{words}: {error.hint}" if error.hint else f"{error.reason}{words}"


def _ask_version(asking: Program, toolchain: Toolchain) -> str:
    hint = describe_install(toolchain.install, asking.argv[0], asking.cwd)
    said = _run(asking, f"{toolchain.name} does not tell its version", hint)
    found = _DOTTED.search(said) or _PLAIN.search(said)
    return found[0].decode() if found else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split("."))) if version else ()


def _built(
    program: Program, source: Source, values: dict[str, str], attempts: int
) -> tuple[Program, str]:
    """Return *program* with the version of its build, and the path of the build."""
    assert program.toolchain is not None
    try:
        version = installed_version(program, program.toolchain)
    except StartError:  # the program may build all the same
        version = ""
    try:
        program = replace(program, parts=build.parts_of(program, source, values, version))
        program = replace(program, version=version_of(program))
        output = build.output(program, source, values, version)
    except OSError as error:
        raise start_error(program, f"{error.filename}: {error.strerror}", "") from error
    if not build.is_built(output):
        key = ("build", str(output))
        _attempt(program, key, lambda: _build(program, source, values, output), attempts)
    return program, str(output)


def _build(program: Program, source: Source, values: dict[str, str], output: Path) -> None:
    assert program.toolchain is not None
    try:
        build.build(program, source, values, output)
    except StartError as error:
        if error.signal is not None:
            raise
        _find(program, program.toolchain)
        hint = "; ".join(filter(None, (error.hint, program.explain())))
        failed = replace(program, argv=error.argv)
        raise start_error(failed, error.reason, hint, error.stderr_tail) from error


def _remember(program: Program, key: Any, find_out: Callable[[], Any]) -> Any:
    if key not in _known:
        _known[key] = _attempt(program, key, find_out)
    return _known[key]


def _attempt(program: Program, key: Any, action: Callable[[], Any], attempts: int = 1) -> Any:
    """
    Run *action*, but not within `RETRY` seconds after it has failed. An action that was killed,
    as the kernel does when memory runs out, is tried *attempts* times first.
    """
    when, failure = _failed.get(key, (0.0, {}))
    if failure and time.monotonic() - when < RETRY:
        raise StartError(node=program.node, **failure)
    for left in reversed(range(attempts)):
        try:
            return action()
        except StartError as error:
            if error.signal is None or not left:
                # A new exception each time: one that is kept would keep its traceback's frames.
                _failed[key] = time.monotonic(), {name: getattr(error, name) for name in _FACTS}
                raise
            logger_of(program.node).warning("a build is tried again: %s", error)
        time.sleep(_PAUSE)


def _run(program: Program, reason: str, hint: str) -> bytes:
    """Return a program's output. If it fails, raise StartError with its last words."""
    try:
        return b"".join(oneshot.run(program, b"", timeout=CHECK_TIMEOUT))
    except (ProcessDied, CallTimeout) as error:
        if isinstance(error, ProcessDied) and (error.exit_code, error.signal) == (None, None):
            hint = "nobody knows, as SIGCHLD is ignored here: signal.signal(SIGCHLD, SIG_DFL)"
        raise start_error(program, reason, hint, error.stderr_tail) from error
    except StartError as error:
        raise start_error(program, f"{reason}: {error.reason}", hint) from error
