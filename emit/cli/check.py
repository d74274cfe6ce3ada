"""``emit check app.router``: find what is wrong with a graph, before a message runs."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import os
import shlex
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from emit.checks import (
    Finding,
    certain_reads,
    find_cycles,
    find_lacking,
    find_unmatched,
    find_unreached,
)
from emit.cli.output import CommandError, UsageError, paint, plural
from emit.cli.target import load_router
from emit.drawing.outline import Outline, outline
from emit.errors import GraphError, HostError
from emit.host.process import stop_all
from emit.host.system.program import Program
from emit.message import Message
from emit.multilang import ShellNode
from emit.node import Node
from emit.router import Router
from emit.router.queued import QueueRouter
from emit.text import nearest, one_line
from emit.typed.contract import VERSION, find_breaks, make_contract
from emit.typed.edges import Known, fields_of_result, find_misfits, relaxed
from emit.typed.schema import Schema, subset

HELP = "Find what is wrong with a graph before a message runs. The exit code is 1 for any finding."

EXAMPLES = """
  emit check app.router
  emit check app.router --all
  emit check app.router --called report --ignore cycle
  emit check app.router --against contract.json
  emit check app.router --json | jq -r '.findings[].text'
"""

KINDS = {
    "declaration": "a setting, or an order of settings, that can't work; a misspelt setting",
    "subscription": "a subscription that matches no node",
    "unreached": "a node that no call of the router leads to",
    "cycle": "nodes that hear each other in a circle",
    "fields": "an edge without a field that its reader needs",
    "types": "a field whose type its reader can't take",
    "contract": "with --against: a change that breaks a subscriber or a caller",
    "program": "a command, file, language or node of a program that is missing",
    "queue": "settings of the queue that lose or repeat messages, or run them for ever",
}


@dataclass
class Report:
    """The findings, and the fields that each node needs."""

    seen: Outline | None = None
    findings: list[Finding] = field(default_factory=list)
    needs: dict[str, Needs] = field(default_factory=dict)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("router", help="dotted path of the router, such as app.router")
    parser.add_argument(
        "--called",
        action="append",
        default=[],
        metavar="NODE",
        help="a node that your own code calls",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        choices=KINDS,
        metavar="KIND",
        help=f"leave out a kind of finding: {', '.join(KINDS)}",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="find what has changed for subscribers since `emit contract` wrote this file",
    )
    parser.add_argument("--all", action="store_true", help="show every edge, not only the findings")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    report = Report()
    try:
        router = load_router(arguments.router)
    except GraphError as error:
        report.findings = [Finding("declaration", "", str(error))]
    else:
        _check(router, arguments.called, report)
        if arguments.against is not None and report.seen is not None:
            now = make_contract(report.seen, known_of(router, report.needs))
            report.findings += find_breaks(_read_contract(arguments.against), now)
    report.findings = [f for f in report.findings if f.kind not in arguments.ignore]
    if arguments.json:
        print(json.dumps(_as_dict(report), ensure_ascii=False, indent=2))
    else:
        _show(report, arguments.all)
    return 1 if report.findings else 0


def _check(router: Router, called: Iterable[str], report: Report) -> None:
    for name in called:
        if name not in router.names:
            raise UsageError(f"there is no node {name}{nearest(name, router.names)}")
    report.seen = outline(router, called)
    programs = list(find_programs(router))
    broken = {finding.node for finding in programs}
    for name, node in router._nodes.items():
        if name not in broken:
            try:
                report.needs[name] = needs_of(node, router)
            except (HostError, NoSuchNode) as error:
                programs.append(Finding("program", name, str(error)))
    needs = {name: known.fields for name, known in report.needs.items() if known.fields}
    known = known_of(router, report.needs)
    queue = [*router.problems(), *_try_out(router)] if isinstance(router, QueueRouter) else []
    report.findings = [
        *find_misspelt(router),
        *find_unmatched(router),
        *find_unreached(report.seen),
        *find_cycles(report.seen),
        *find_lacking(report.seen, needs),
        *find_misfits(report.seen, known),
        *programs,
        *(Finding("queue", "", text) for text in queue),
    ]


def _try_out(router: Router) -> list[str]:
    """
    Return the reasons why Emit's counts and dead letters can't be kept in Redis. If Redis can't be
    reached, nobody knows: stderr says so.
    """
    from emit.cli.queues import find_unkept

    wrong = []
    for text, is_away in find_unkept(router):
        if is_away:
            print(f"emit check: not tried: {text}", file=sys.stderr)
        else:
            wrong.append(text)
    return wrong


def _as_dict(report: Report) -> dict[str, object]:
    needs = {
        name: {"fields": known.fields, "reason": known.reason}
        for name, known in report.needs.items()
    }
    return {"findings": [asdict(finding) for finding in report.findings], "needs": needs}


def _show(report: Report, everything: bool) -> None:
    if everything and report.seen is not None:
        _show_edges(report.seen, report.needs)
    for finding in report.findings:
        print(f"{paint('✘', 'red')} {finding.kind:<13} {finding.text}")
    if report.seen is None:
        return
    size = f"{plural(len(report.seen.nodes), 'node')}, {plural(len(report.seen.edges), 'edge')}"
    found = plural(len(report.findings), "finding") if report.findings else "nothing found"
    unknown = sum(known.fields is None for known in report.needs.values())
    rest = f"; not known what they need: {plural(unknown, 'node')} (see --all)" if unknown else ""
    print(f"{size}: {found}{rest}")


def _show_edges(seen: Outline, needs: dict[str, Needs]) -> None:
    for edge in seen.edges:
        known = needs.get(edge.destination, Needs(None, "it can't be asked"))
        fields = seen.fields_of(edge)
        gives = "what the caller gives" if fields is None else f"({', '.join(fields)})"
        if fields is None and edge.origin in seen.nodes:  # it passes on what it is given
            gives = f"({', '.join(seen.nodes[edge.origin].shown)}), … being {gives}"
        way = f"{edge.origin} -> {edge.destination}: {gives}"
        if known.fields is None:
            print(f"{paint('–', 'yellow')} {way}; not known what it needs: {known.reason}")
            continue
        wants = f"needs {', '.join(known.fields) or 'no field for certain'}"
        mark, colour = ("–", "yellow") if fields is None else ("✔", "green")
        if fields is None or set(known.fields) <= set(fields):
            print(f"{paint(mark, colour)} {way}; {wants}")


# -- The handlers of a router: the fields they need, and programs that can't run -------------------

#: Suffixes of source files. A word of a command with one of them is a file that has to exist.
_SOURCES = (".rb", ".py", ".js", ".mjs", ".cjs", ".ts", ".go", ".sh", ".pl", ".php")


class NoSuchNode(Exception):
    """A program lacks the node that it is meant to serve. The text lists the nodes it has."""


class Needs(NamedTuple):
    """
    What a node takes and gives, as far as it is known.

    Attributes:
        fields: The fields that it requires; None if they are not known.
        reason: Why they are not known.
        optional: The other fields that its program names.
        takes: The types of its message's fields.
        gives: The type of a result, by what its program tells; ``{}`` if it tells nothing.
    """

    fields: tuple[str, ...] | None
    reason: str = ""
    optional: tuple[str, ...] = ()
    takes: Mapping[str, Schema] = MappingProxyType({})
    gives: Mapping[str, Any] = MappingProxyType({})


def needs_of(node: Node, router: Router) -> Needs:
    """
    Return the fields that a node requires: ask its program, or read its Python handler's source.

    Raises:
        HostError: The program can't be started.
        NoSuchNode: The program lacks the node.
    """
    handler = node.handler
    if not (node.foreign and isinstance(handler, ShellNode)):
        return _annotated(node) or _python_needs(handler, router.message_class)
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
        outputs = (ready.outputs if ready else None) or {}
        nodes = (ready.nodes if ready else None) or list(inputs)
    finally:
        stop_all([process])
    chosen = _meant(handler, nodes)
    gives = subset(outputs.get(chosen), {}, floats=False)
    if chosen not in inputs:
        return Needs(None, "its handler takes the whole message", gives=gives)
    told = inputs[chosen]
    takes = {
        name: subset(schema, {}, floats=False)
        for name, schema in dict(told.get("properties") or {}).items()
    }
    return Needs(tuple(told["required"]), "", tuple(told["optional"]), takes, gives)


def _meant(handler: ShellNode, nodes: Sequence[str]) -> str:
    """
    Return the name that a node has inside its program: its ``program_node``, else its own name. A
    program with one node serves it under any name.

    Raises:
        NoSuchNode: The program has several nodes, and none of this name; or not the
            ``program_node``.
    """
    asked = handler._program_node()
    name = asked or handler.name
    if name in nodes or (asked is None and len(nodes) == 1) or not nodes:
        return nodes[0] if len(nodes) == 1 else name
    known = f"{', '.join(nodes)}{nearest(name, nodes)}"
    if asked is None:
        known += "; program_node says which it is"
    raise NoSuchNode(f'"{handler.name}": its program has no node "{name}", only: {known}')


def _annotated(node: Node) -> Needs | None:
    """Return what a Python handler takes by the class that its parameter is annotated with."""
    python = _python()
    kind = python.taken_by(node.handler) if python is not None else None
    if kind is None:
        return None
    takes = python.schemas_of(kind, gives=False)
    required = python.required_of(kind)
    optional = tuple(name for name in takes if name not in required)
    return Needs(required, "", optional, relaxed(takes) if node.convert else takes)


def _python() -> Any:
    """Return the module that reads types of Python; None if msgspec is not installed."""
    try:
        return importlib.import_module("emit.typed.python")
    except GraphError:
        return None


def survey(router: Router, silent: list[str] | None = None) -> tuple[Outline, dict[str, Known]]:
    """
    Return the outline of a router, and the types that are known of its nodes.

    Args:
        router: The router.
        silent: Gets the reason why a program can't be asked. Its declared types are known then.

    Raises:
        CommandError: A program can't be asked, and there is no *silent*.
        GraphError: The router declares types, and msgspec is not installed to read them.
    """
    needs = {}
    for name, node in router._nodes.items():
        try:
            needs[name] = needs_of(node, router)
        except (HostError, NoSuchNode) as error:
            if silent is None:
                raise CommandError(str(error)) from error
            silent.append(one_line(str(error)))
            needs[name] = Needs(None)
    return outline(router), known_of(router, needs)


def known_of(router: Router, needs: Mapping[str, Needs]) -> dict[str, Known]:
    """
    Return the types that are known of each node.

    Raises:
        GraphError: The router declares types, and msgspec is not installed to read them.
    """
    return {name: _known(router, node, needs) for name, node in router._nodes.items()}


def _known(router: Router, node: Node, needs: Mapping[str, Needs]) -> Known:
    types = router.types.get(node.name)
    declared = {}
    if types is not None:
        declared = importlib.import_module("emit.typed.python").schemas_of(types, gives=True)
    mine = needs.get(node.name, Needs(None))
    return Known(
        declared,
        fields_of_result(dict(mine.gives), node.fields),
        mine.takes,
        mine.fields,
        mine.optional,
        router._declarations.place(node.name),
        _place(node),
        is_converted=node.convert is not None,
    )


def _place(node: Node) -> str:
    """Return the place of a node's handler: a program's file or command, or a line of Python."""
    handler = node.handler
    if node.foreign and isinstance(handler, ShellNode):
        file = str(handler.file or shlex.join(handler.get_command()))
        return file.removeprefix(f"{os.getcwd()}{os.sep}")
    called = inspect.unwrap(handler if inspect.isroutine(handler) else type(handler).__call__)
    code = getattr(called, "__code__", None)
    if code is None:
        return "an unknown place"
    return f"{code.co_filename}:{code.co_firstlineno}".removeprefix(f"{os.getcwd()}{os.sep}")


def _read_contract(path: Path) -> Any:
    """
    Raises:
        UsageError: The file can't be read, or is no contract.
    """
    try:
        contract = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    if not isinstance(contract, dict) or contract.get("emit_contract") != VERSION:
        raise UsageError(f"{path} is no contract of this version; write it with: emit contract")
    return contract


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
    if hasattr(called, "__wrapped__"):  # its decorator may change the message
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(called)))
    except (OSError, TypeError, SyntaxError):
        return None
    match tree.body:
        # The source of a lambda is the whole statement around it, which may be a function, too.
        case [ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) as function] if (
            name == called.__name__
        ):
            # In a method that takes *args, the last named parameter is self and not the message.
            named = [*function.args.posonlyargs, *function.args.args]
            return function if inspect.isfunction(handler) or len(named) > 1 else None
    return None


def find_misspelt(router: Router) -> Iterator[Finding]:
    """Find attributes of foreign nodes that are not settings, but are spelt almost like one."""
    for name, node in router._nodes.items():
        if node.foreign and isinstance(node.handler, ShellNode):
            for given, setting in node.handler._misspelt().items():
                text = f'"{name}": {given} is no setting and does nothing; is {setting} meant?'
                yield Finding("declaration", name, text)


def find_programs(router: Router) -> Iterator[Finding]:
    """Find foreign nodes whose command, or a source file in the command, does not exist."""
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
