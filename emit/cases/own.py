"""Finds and runs the tests of nodes in their own languages, as ``runtime.toml`` says."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from emit.cases.suite import Finding, Verdict
from emit.errors import StartError
from emit.host.language.launch import installed_version, places, toolchain_of
from emit.host.language.runtime import Runtime, Source, fill, runtimes
from emit.host.system.program import DEFAULT, Program, environment

#: Folders that have no tests of ours.
_LEFT_OUT = {"node_modules", "vendor", "venv", "site-packages", "__pycache__"}

#: Lines of the output of a failed test that are shown.
_LINES = 40


class Own(NamedTuple):
    """A test file, and its language."""

    path: Path
    runtime: Runtime


def files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without those of tools and packages, in order."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(x for x in folders if x not in _LEFT_OUT and not x.startswith("."))
        yield from (Path(place, name) for name in sorted(names))


def own_tests(paths: Iterable[Path]) -> Iterator[Own]:
    """Yield the files among *paths* that are tests, by their names."""
    patterns = [(_pattern(runtime), runtime) for runtime in runtimes().values() if runtime.test]
    for path in paths:
        for pattern, runtime in patterns:
            if pattern.fullmatch(path.name):
                yield Own(path, runtime)


def _pattern(runtime: Runtime) -> re.Pattern[str]:
    stem, _, suffix = runtime.test_file.rpartition(".")
    suffixes = {f".{suffix}", *runtime.suffixes}
    name = re.escape(stem).replace(re.escape("{name}"), r".+")
    return re.compile(f"{name}({'|'.join(map(re.escape, sorted(suffixes)))})")


def run(each: Iterable[Own]) -> Iterator[Finding]:
    """
    Run test files: those of Python by one pytest for each interpreter, others one by one, and those
    in one folder together if a folder is a program.
    """
    python: dict[str, list[Own]] = {}
    others: dict[Path, Own] = {}
    for own in each:
        values = _places(own)
        if "pytest" in own.runtime.test:
            python.setdefault(values["python"], []).append(own)
        else:
            others.setdefault(own.path.parent if own.runtime.folders else own.path, own)
    for group in python.values():
        yield from _pytest(group)
    for target, own in others.items():
        yield _one(target, own)


def _places(own: Own) -> dict[str, str]:
    return places(Source(own.path.resolve(), "", own.runtime), None)


def _one(target: Path, own: Own) -> Finding:
    lacking = _lacks(own)
    if lacking:
        return Finding(str(target), "", "skipped", 0.0, (lacking,))
    values = {**_places(own), "file": str(own.path.resolve())}
    began = time.monotonic()
    code, output = _call(fill(own.runtime.test, values), own, values)
    seconds = time.monotonic() - began
    verdict: Verdict = "failed" if code else "passed"
    lines = tuple(output.splitlines()[-_LINES:]) if code else ()
    return Finding(str(target), "", verdict, seconds, lines)


def _lacks(own: Own) -> str:
    """Return why a language can't be used on this machine; "" if it can."""
    values = _places(own)
    tools = toolchain_of(own.runtime, values)
    try:
        asking = Program(node=own.runtime.name, argv=(), env=environment({}, DEFAULT))
        installed_version(asking, tools)
    except StartError as error:
        return str(error).partition("\n")[0]
    return ""


def _call(command: Iterable[str], own: Own, values: Mapping[str, str]) -> tuple[int, str]:
    env = dict(os.environ)
    for name, text in own.runtime.test_sdk_env.items():
        known = [fill((text,), values)[0], *filter(None, [env.get(name)])]
        env[name] = os.pathsep.join(known)
    done = subprocess.run(
        [*command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _pytest(group: list[Own]) -> Iterator[Finding]:
    first, began = group[0], time.monotonic()
    values = _places(first)
    command = [word for word in fill(first.runtime.test, {**values, "file": ""}) if word]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        names = [str(own.path) for own in group]
        code, output = _call([*command, "-q", f"--junitxml={report}", *names], first, values)
        found = [*_read(report)] if report.exists() else []
    yield from found
    if code not in (0, 1, 5) or (code and not found):
        lines = tuple(output.splitlines()[-_LINES:])
        yield Finding(" ".join(names), "", "failed", time.monotonic() - began, lines)


def _read(report: Path) -> Iterator[Finding]:
    for case in ElementTree.parse(report).iter("testcase"):
        verdict: Verdict = "passed"
        lines: tuple[str, ...] = ()
        for kind in case:
            if kind.tag in ("failure", "error", "skipped"):
                verdict = "skipped" if kind.tag == "skipped" else "failed"
                told = (kind.text or kind.get("message") or "").splitlines()
                lines = tuple(told[-_LINES:])
        suite = f"{case.get('classname', '').replace('.', '/')}.py"
        yield Finding(suite, case.get("name", ""), verdict, float(case.get("time", 0)), lines)
