"""
Finding the node that a command line names.

``app.router:words`` is a node of a router, ``nodes/words.rb`` a file with one (or, as
``nodes/words.rb:words``, with several), and anything else a command.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

from emit.checks.findings import nearest
from emit.cli.errors import TargetError, UsageError
from emit.cli.target import load_router
from emit.multilang import ShellNode
from emit.router import Router

#: Help for an argument that names a node.
TARGET = "a node of a router (app.router:words), a file (nodes/words.rb), or a command in quotes"

_NODE = re.compile(r"(?P<router>[A-Za-z_]\w*(?:\.\w+)+):(?P<node>.+)")


def split_node(target: str) -> tuple[str, str] | None:
    """The router and the node that ``app.router:words`` names; None for a file or a command."""
    match = _NODE.fullmatch(target)
    if match is None or os.path.exists(match["router"]):
        return None
    return match["router"], match["node"]


def load_node(target: str, options: Mapping[str, Any] = {}) -> tuple[Router, str]:  # read only
    """
    Find ``app.router:words``.

    Args:
        target: What the command line says.
        options: Settings given there, which a router's node has none of: it has its own.

    Raises:
        TargetError: There is no such router, or no such node in it.
        UsageError: There are options.
    """
    parts = split_node(target)
    if parts is None:
        raise TargetError(f'"{target}" is no node of a router, such as app.router:words')
    if options:
        given = ", ".join(f"--{name}" for name in options)
        raise UsageError(f"{given}: a node of a router has settings of its own")
    router = load_router(parts[0])
    if parts[1] not in router.functions:
        near = nearest(parts[1], router.names)
        raise TargetError(f'"{parts[0]}" has no node "{parts[1]}"{near}')
    return router, parts[1]


def make_node(target: str, **settings: Any) -> ShellNode:
    """
    Make a node of a command.

    Raises:
        TargetError: It is empty, or not quoted as a shell would have it.
        GraphError: A setting can't work.
    """
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise TargetError(f"{target!r}: {error}") from error
    if not words:
        raise TargetError("the target is empty")
    node = ShellNode()
    node.configure(os.path.basename(words[0]), {"command": words, **settings}, stream=False)
    return node
