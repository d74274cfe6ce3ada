"""
Find the node that a command line names.

``app.router:words`` is a node of a router. ``nodes/words.rb`` is a file with one node, and
``nodes/words.rb:words`` a node of a file with several. Anything else is a command.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emit.cli.output import TargetError, UsageError
from emit.cli.target import load_router
from emit.host.language.runtime import no_language, runtimes
from emit.multilang import ShellNode
from emit.router import Router
from emit.text import nearest

#: Help for --node.
NODE = "the node to use, if a file or a command has several"

#: Help for an argument that names a node.
TARGET = "a node of a router (app.router:words), a file (nodes/words.rb), or a command in quotes"

#: Settings of a node whose option has another name.
_OPTIONS = {"program_node": "node"}

#: Texts that may be meant as a router, or as a node of one.
_DOTTED, _MODULE_NODE = re.compile(r"[A-Za-z_]\w*(\.\w+)+"), re.compile(r"[A-Za-z_]\w*:\w+")

_NODE = re.compile(r"(?P<router>[A-Za-z_]\w*(?:\.\w+)+):(?P<node>.+)")


def split_node(target: str) -> tuple[str, str] | None:
    """Split ``app.router:words`` into router and node. Return None for a file or a command."""
    match = _NODE.fullmatch(target)
    if match is None or is_file(target):
        return None
    return match["router"], match["node"]


def load_node(target: str, options: Mapping[str, Any] = {}) -> tuple[Router, str]:  # read only
    """
    Find a node of a router, such as ``app.router:words``.

    Args:
        target: The word of the command line.
        options: Settings of the command line. They are refused, as the node has its own.

    Raises:
        TargetError: The router does not exist, or has no node of this name.
        UsageError: There are options.
    """
    parts = split_node(target)
    if parts is None:
        raise TargetError(f'"{target}" is no node of a router, such as app.router:words')
    if options:
        given = ", ".join(f"--{_OPTIONS.get(name, name)}" for name in options)
        raise UsageError(f"{given}: a node of a router has settings of its own")
    router = load_router(parts[0])
    if parts[1] not in router.functions:
        near = nearest(parts[1], router.names)
        raise TargetError(f'"{parts[0]}" has no node "{parts[1]}"{near}')
    return router, parts[1]


def load_program(target: str, **settings: Any) -> ShellNode:
    """
    Find a node that has a program of its own.

    Args:
        target: The word of the command line.
        settings: Settings for a file or a command; a node of a router keeps its own.

    Raises:
        TargetError: The node does not exist, or is a Python node.
        GraphError: The file does not exist.
    """
    if split_node(target) is None:
        return make_node(target, **settings)
    router, name = load_node(target)
    node = router._nodes.get(name)
    if node is None or not isinstance(node.handler, ShellNode):
        raise TargetError(f'"{name}" is a Python node: it has no program of its own')
    return node.handler


def make_node(target: str, **settings: Any) -> ShellNode:
    """
    Make a node from a file or a command.

    Raises:
        TargetError: The target is empty or wrongly quoted, or is a file, a folder or a router that
            can't be a node.
        GraphError: The file does not exist, or a setting can't work.
    """
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise TargetError(f"{target!r}: {error}") from error
    if not words:
        raise TargetError("the target is empty")
    program: dict[str, Any] = {"command": words}
    if is_file(target):
        program = {"file": target}
    elif len(words) == 1:
        _check_command(words[0])
    node: ShellNode = ShellNode()
    node.configure(os.path.basename(words[0].rstrip("/")), {**program, **settings}, stream=False)
    return node


def _check_command(word: str) -> None:
    """
    Refuse a word that can't be a command.

    Raises:
        TargetError: The word is a folder, a file in an unknown language, or a router.
    """
    path = Path(word)
    languages = runtimes().values()
    if path.is_dir():
        files = sorted(x for x in path.iterdir() if any(a.takes(x) for a in languages))
        say = f"name a file in it, such as {files[0]}" if files else "no file in it can be a node"
        raise TargetError(f'"{word}" is a folder: {say}')
    if path.is_file() and path.suffix and not os.access(path, os.X_OK):
        raise TargetError(f'"{word}": {no_language(path.suffix, languages)}')
    if shutil.which(word) is None and not path.exists():
        _check_router(word)


def _check_router(word: str) -> None:
    if _MODULE_NODE.fullmatch(word):
        raise TargetError(f'"{word}": a node of a router is written as app.router:words')
    if not _DOTTED.fullmatch(word):
        return
    try:
        names = load_router(word).names
    except TargetError as error:
        told = str(error).partition(": ")[2]
        if not told.startswith("there is no module"):
            raise
        if "nearest" in told:
            raise TargetError(f'"{word}" is no command, and {told}') from error
        return  # it was meant as a command
    if not names:
        raise TargetError(f'"{word}" is a router without nodes')
    has = ", ".join(sorted(names))
    raise TargetError(
        f'"{word}" is a router: say a node of it, {word}:{min(names)} (it has: {has})'
    )


def is_file(target: str) -> bool:
    """
    Return True for a file, or a folder, in a language that Emit can launch. A missing file with
    the suffix of a language counts as a file, too: it can't be a command.
    """
    languages = runtimes().values()
    path = Path(target if os.path.exists(target) else target.rpartition(":")[0] or target)
    if path.exists():
        return any(language.takes(path) for language in languages)
    return " " not in target and any(path.name.endswith(x.suffixes) for x in languages)
