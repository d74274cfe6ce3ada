"""
Files of cases, in NDJSON.

The first line says what the rest is, and how results are compared::

    {"emit_cases": 1, "target": "app.router:measure", "ignore": ["at"], "tolerance": 1e-9}

Each further line is a case::

    {"message": {"word": "rain"}, "results": [{"letters": "ainr"}]}
    {"message": {"word": null}, "error": "TypeError", "name": "no word"}

A map that JSON can't represent exactly stands as a text that begins with ``msgpack:``.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emit.errors import EmitError
from emit.exact import Inexact, from_text, to_json, to_text

__all__ = ["Case", "CaseError", "Cases", "Settings", "is_cases", "make_room", "read", "write"]

#: The key of the first line that marks a file of cases; its value is the version of the form.
MARK = "emit_cases"

VERSION = 1

#: Begins the text of a value that JSON can't represent exactly.
_MARK = "msgpack:"


class CaseError(EmitError):
    """A file of cases can't be read, or a case can't be written."""


@dataclass(frozen=True)
class Settings:
    """
    How results are compared with those that were recorded.

    Attributes:
        ignore: Names of fields that may differ, at any depth.
        ordered: The results must come in the same order.
        tolerance: The largest difference of two numbers, relative to the larger one, or absolute if
            both are below 1. With 0, the default, ``1`` and ``1.0`` are different, too.
    """

    ignore: tuple[str, ...] = ()
    ordered: bool = True
    tolerance: float = 0.0


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        message: The fields of the message.
        results: The results, in order.
        error: The class of the exception that the node raised; empty: none.
        name: A name for people; may be empty.
        origin: The node that the message came from; may be empty.
        line: Its line in the file, from 1; 0: it is in no file.
    """

    message: Mapping[str, Any]
    results: tuple[Any, ...] = ()
    error: str = ""
    name: str = ""
    origin: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Cases:
    """
    The cases of a node.

    Attributes:
        target: The node, as ``emit call`` names it: ``app.router:measure``, or a file.
        each: The cases.
        settings: How results are compared.
    """

    target: str
    each: tuple[Case, ...] = ()
    settings: Settings = field(default_factory=Settings)


def is_cases(path: Path) -> bool:
    """Return True if the first line of a file marks it as one of cases."""
    try:
        with path.open("rb") as file:
            first = file.readline(65536)
    except OSError:
        return False
    return MARK.encode() in first


def read(path: Path) -> Cases:
    """
    Read a file of cases.

    Raises:
        CaseError: It can't be read. The text names the line.
    """
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"{path} can't be read: {error}") from error
    head = _object(path, 1, lines[0] if lines else "")
    version = head.get(MARK)
    if type(version) is not int or not isinstance(head.get("target"), str):
        raise CaseError(
            f'{path}:1: the first line of a file of cases is such as {{"{MARK}": {VERSION}, '
            f'"target": "app.router:node"}}'
        )
    if version > VERSION:
        raise CaseError(f"{path}: a newer version of Emit wrote it, in form {version}")
    cases = tuple(
        _case(path, number, line) for number, line in enumerate(lines[1:], 2) if line.strip()
    )
    return Cases(head["target"], cases, _settings(path, head))


def _settings(path: Path, head: Mapping[str, Any]) -> Settings:
    ignore, ordered = head.get("ignore", []), head.get("ordered", True)
    tolerance = head.get("tolerance", 0)
    is_list = isinstance(ignore, list) and all(isinstance(name, str) for name in ignore)
    is_number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if not is_list or not isinstance(ordered, bool) or not is_number or not tolerance >= 0:
        raise CaseError(
            f'{path}:1: "ignore" is a list of names, "ordered" is true or false, "tolerance" is a '
            f"number of 0 or more"
        )
    return Settings(tuple(ignore), ordered, float(tolerance))


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise CaseError(f"{path}:{number}: it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise CaseError(f"{path}:{number}: it is no JSON object")
    return found


def _case(path: Path, number: int, line: str) -> Case:
    told = _object(path, number, line)
    try:
        message = _value(told["message"])
        results = tuple(map(_value, told.get("results", ())))
    except (KeyError, TypeError, ValueError) as error:
        raise CaseError(f"{path}:{number}: it has no readable message and results") from error
    if not isinstance(message, dict):
        raise CaseError(f"{path}:{number}: its message is no JSON object")
    texts = {name: str(told.get(name, "")) for name in ("error", "name", "origin")}
    return Case(message, results, **texts, line=number)


def _value(told: Any) -> Any:
    return from_text(told) if isinstance(told, str) and told.startswith(_MARK) else told


def make_room(path: Path) -> None:
    """
    Make the folder of a file of cases, before anything is recorded for it.

    Raises:
        CaseError: The file can't be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaseError(f"{path} can't be written: {error.strerror}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise CaseError(f"{path} can't be written: it is a folder, or its folder is read-only")


def write(path: Path, cases: Cases) -> None:
    """
    Write a file of cases: wholly, or not at all.

    Raises:
        CaseError: A value can't be represented, or the file can't be written.
    """
    lines = [head_of(cases), *(line_of(case) for case in cases.each)]
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, path.stat().st_mode if path.exists() else 0o666 & ~mask)
        os.replace(name, path)
    except OSError as error:
        raise CaseError(f"{path} can't be written: {error.strerror}") from error


def head_of(cases: Cases) -> str:
    """Return the first line of a file."""
    settings = cases.settings
    head: dict[str, Any] = {MARK: VERSION, "target": cases.target}
    if settings.ignore:
        head["ignore"] = list(settings.ignore)
    if not settings.ordered:
        head["ordered"] = False
    if settings.tolerance:
        head["tolerance"] = settings.tolerance
    return _json(head)


def line_of(case: Case) -> str:
    """
    Return the line of a case.

    Raises:
        CaseError: A value of it can't be represented.
    """
    told: dict[str, Any] = {"message": _told(case.message, "the message")}
    if case.results or not case.error:
        told["results"] = [_told(result, "a result") for result in case.results]
    texts = {name: getattr(case, name) for name in ("error", "name", "origin")}
    return _json(told | {name: text for name, text in texts.items() if text})


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return json.dumps(value)
    return text


def _told(value: Any, what: str) -> Any:
    value = dict(value) if isinstance(value, Mapping) else value
    if not isinstance(value, str) and to_json(value) is not None:
        return value
    try:
        text = to_text(value)
    except Inexact as error:
        raise CaseError(f"{what} can't be recorded: {error}") from error
    if isinstance(value, str) and value.startswith(_MARK):
        raise CaseError(f"{what} can't be recorded: it is a text that begins with {_MARK}")
    return text if text.startswith(_MARK) else json.loads(text)


def pruned(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Return the cases without those that repeat an earlier one."""
    found: dict[str, Case] = {}
    for case in cases:
        found.setdefault(line_of(case), case)
    return tuple(found.values())
