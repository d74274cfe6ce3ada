"""What a router's handlers tell of themselves: the fields they need, and whether they can run."""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from emit.checks.findings import Finding
from emit.checks.needs import certain_reads
from emit.errors import HostError
from emit.host.process import stop_all
from emit.host.system.program import Program
from emit.message import Message
from emit.multilang import ShellNode
from emit.nearest import nearest
from emit.node import Node
from emit.router import Router

#: How source files end: a word of a command that ends so is a file that has to be there.
_SOURCES = (".rb", ".py", ".js", ".mjs", ".cjs", ".ts", ".go", ".sh", ".pl", ".php")


class NoSuchNode(Exception):
    """A program has no node of the name that it would be called by. The text lists those it has."""


class Needs(NamedTuple):
    """The fields that a node can't do without; None and the reason, where that is not known."""

    fields: tuple[str, ...] | None
    reason: str = ""


def needs_of(node: Node, router: Router) -> Needs:
    """
    Ask a node's program, or read a Python handler's source.

    Raises:
        HostError: The program can't be started.
        NoSuchNode: The program has not the node that is meant.
    """
    handler = node.handler
    if not (node.foreign and isinstance(handler, ShellNode)):
        return _python_needs(handler, router.message_class)
    if not handler.takes_many:
        return Needs(None, "its __call__ is its own, and may change the message")
    if handler.mode in ("oneshot", "lines"):
        return Needs(None, f"a program in mode {handler.mode} does not say what it needs")
    if handler.mode == "auto" and handler.file is None:
        return Needs(None, 'only mode = "persistent" can be asked without a message')
    return _asked(handler)


def _asked(handler: ShellNode) -> Needs:
    process = handler.start()
    try:
        ready = process.talk.session.ready
        inputs = (ready.inputs if ready else None) or {}
        nodes = (ready.nodes if ready else None) or list(inputs)
    finally:
        stop_all([process])
    chosen = _meant(handler, nodes)
    if chosen not in inputs:
        return Needs(None, "its handler takes the whole message")
    return Needs(tuple(inputs[chosen]["required"]))


def _meant(handler: ShellNode, nodes: Sequence[str]) -> str:
    """
    Which of a program's nodes a node is: by its own name, if it has none for the program.

    Raises:
        NoSuchNode: It is none of them.
    """
    asked = handler._program_node()
    name = asked or handler.name
    if name in nodes or (asked is None and len(nodes) == 1) or not nodes:
        return nodes[0] if len(nodes) == 1 else name
    known = f"{', '.join(nodes)}{nearest(name, nodes)}"
    if asked is None:
        known += "; program_node says which it is"
    raise NoSuchNode(f'"{handler.name}": its program has no node "{name}", only: {known}')


def _python_needs(handler: object, message_class: type[Message]) -> Needs:
    own = (cls for cls in message_class.__mro__ if issubclass(cls, Message) and cls is not Message)
    for cls in own:
        for name in ("__init__", "__getattr__", "__getattribute__"):
            if name in vars(cls):
                return Needs(None, f"{cls.__name__}.{name} may add fields")
    function = _definition(handler)
    if function is None:
        return Needs(None, "its source is not one function")
    return Needs(certain_reads(function, ignored=dir(message_class)))


def _definition(handler: object) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    called = handler if inspect.isroutine(handler) else type(handler).__call__
    if hasattr(called, "__wrapped__"):  # what stands around it may change the message
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(called)))
    except (OSError, TypeError, SyntaxError):
        return None
    match tree.body:
        # Of a lambda the source is the whole statement around it, which may be a function, too.
        case [ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) as function] if (
            name == called.__name__
        ):
            # Of a method that takes *args the last parameter that has a name is no message.
            named = [*function.args.posonlyargs, *function.args.args]
            return function if inspect.isfunction(handler) or len(named) > 1 else None
    return None


def find_misspelt(router: Router) -> Iterator[Finding]:
    """Attributes of foreign nodes that are no settings, but are named almost as one is."""
    for name, node in router._nodes.items():
        if node.foreign and isinstance(node.handler, ShellNode):
            for given, setting in node.handler._misspelt().items():
                text = f'"{name}": {given} is no setting and does nothing; is {setting} meant?'
                yield Finding("declaration", name, text)


def find_programs(router: Router) -> Iterator[Finding]:
    """Foreign nodes whose command, or a source file that it names, is not there."""
    for name, node in router._nodes.items():
        if not (node.foreign and isinstance(node.handler, ShellNode)):
            continue
        try:
            program = node.handler.find()
        except HostError as error:
            yield Finding("program", name, str(error))
            continue
        for word in _missing_files(program):
            text = (
                f'"{name}": its command names {word}, which is not in {program.cwd or os.getcwd()}'
            )
            yield Finding("program", name, text)


def _missing_files(program: Program) -> list[str]:
    named = [w for w in program.argv[1:] if w.endswith(_SOURCES) and w[0] != "-" and " " not in w]
    return [w for w in named if not os.path.exists(os.path.join(program.cwd or "", w))]
