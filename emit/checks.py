"""
The faults of a graph that show before a message runs: in its subscriptions, ways and fields. No
I/O here.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from emit.drawing.outline import Outline, reach, roots
from emit.graph import ENTRY, Graph, Subscription
from emit.message import ORIGIN
from emit.text import nearest

if TYPE_CHECKING:
    from emit.router import Router


@dataclass(frozen=True)
class Finding:
    """
    One fault.

    Attributes:
        kind: ``subscription``, ``unreached``, ``cycle``, ``fields``, or a kind of the caller's.
        node: The node with the fault.
        text: What is wrong, with the names and what to change.
    """

    kind: str
    node: str
    text: str


def find_unmatched(router: Router) -> Iterator[Finding]:
    """Yield the subscriptions and ignores that match no node, with the nearest names."""
    graph = router._graph
    for verb, wishes in (("hears", graph.hears), ("ignores", graph.ignores)):
        for node, wished in wishes.items():
            for wish in wished:
                if not _matches(graph, wish, node):
                    text = wish.name if wish.name is not None else wish.pattern.pattern
                    what = f'"{node}" {verb} "{text}", which matches no node'
                    yield Finding(
                        "subscription",
                        node,
                        what + nearest(text, (name for name in graph.names if name != node)),
                    )


def _matches(graph: Graph, wish: Subscription, node: str) -> bool:
    names = {ENTRY: None, **graph.names}
    if wish.is_name(names):
        return wish.name in names
    return any(name != node and wish.pattern.search(name) for name in names)


def find_unreached(outline: Outline) -> Iterator[Finding]:
    """Yield the nodes that no call of the router reaches, each with its own unreached followers."""
    lost = [name for name, node in outline.nodes.items() if not node.reached]
    if lost and not outline.heard(ENTRY) and len(lost) == len(outline.nodes):
        yield Finding("unreached", lost[0], "no node is an entry point: calls of the router end")
        return
    for name in roots(outline, lost):
        behind = sorted(reach(outline.edges, [name]).intersection(lost) - {name})
        after = f", nor {', '.join(behind)} behind it" if behind else ""
        yield Finding("unreached", name, f'"{name}" is never reached{after}')


def find_cycles(outline: Outline) -> Iterator[Finding]:
    """Yield the cycles of the graph: at least one for each edge that closes a cycle."""
    origins: dict[str, set[str]] = {name: set() for name in outline.nodes}
    for edge in outline.edges:
        origins[edge.destination].add(edge.origin)
    while (circle := _circle(origins)) is not None:
        origins[circle[1]].discard(circle[0])
        way = " -> ".join(circle)
        text = f"{way} is a circle: it ends only where one of them emits nothing"
        yield Finding("cycle", circle[0], text)


def _circle(origins: Mapping[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(origins).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return None


def find_lacking(outline: Outline, needs: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """
    Yield the edges that lack a field that their reader needs.

    Args:
        outline: The graph.
        needs: The fields that a node requires, for each node for which they are known.
    """
    for edge in outline.edges:
        fields = outline.fields_of(edge)
        wanted = needs.get(edge.destination, ())
        if fields is None:
            continue
        missing = _missing(wanted, fields, foreign=outline.nodes[edge.destination].foreign)
        if missing:
            gives = f"gives only {', '.join(fields)}" if fields else "gives no fields"
            text = (
                f"{edge.origin} -> {edge.destination}: needs {', '.join(missing)}; "
                f"{edge.origin} {gives}"
            )
            yield Finding("fields", edge.destination, text)


def _missing(wanted: Iterable[str], fields: Iterable[str], *, foreign: bool) -> list[str]:
    """Ignore differences in case for programs: Go matches field names case-insensitively."""
    form = str.casefold if foreign else str
    wanted = (name for name in wanted if name != ORIGIN)  # every message has it
    given = set(map(form, fields))
    return [name for name in wanted if form(name) not in given]


# -- Which fields a Python handler certainly reads, told from its source ---------------------------

# A read counts only if every message runs through it: not behind an ``if``, in a ``try``, in the
# body of a loop, after a possible ``return``, or after the message was passed to another
# function. So a field that is named here is certainly needed, and others may be needed, too.

#: Calls that do not change a message.
_HARMLESS = frozenset({"dict", "len", "list", "print", "repr", "str"})

_LEAVES = (ast.Return, ast.Raise, ast.Break, ast.Continue)


def certain_reads(
    function: ast.FunctionDef | ast.AsyncFunctionDef, ignored: Collection[str] = ()
) -> tuple[str, ...]:
    """
    Return the fields that a handler reads from every message.

    Args:
        function: Its definition; the message is its last positional parameter.
        ignored: Names that are not fields, such as the methods of the message's class.

    Example:
        >>> source = "def f(msg):\\n  if msg.a: print(msg.b)\\n  return msg['c']"
        >>> certain_reads(ast.parse(source).body[0])
        ('a', 'c')
    """
    parameters = [*function.args.posonlyargs, *function.args.args]
    if not parameters:
        return ()
    name = parameters[-1].arg
    reads: dict[str, None] = {}
    for expression in _expressions(function.body):
        fields, whole = _reads(expression, name)
        reads.update(dict.fromkeys(fields))
        if whole:
            break
    return tuple(read for read in reads if read not in ignored and read != "_origin")


def _expressions(body: Sequence[ast.stmt]) -> Iterator[ast.expr]:
    """Yield the expressions that are certainly evaluated, in order."""
    for statement in body:
        match statement:
            case ast.With() | ast.AsyncWith():
                yield from (item.context_expr for item in statement.items)
                yield from _expressions(statement.body)
            case ast.For() | ast.AsyncFor():
                yield statement.iter
            case ast.If() | ast.While() | ast.Assert():
                yield statement.test
            case ast.Match():
                yield statement.subject
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                continue  # a return in there ends only the inner function
            case ast.Try():
                pass
            case _:
                yield from (x for x in ast.iter_child_nodes(statement) if isinstance(x, ast.expr))
        if any(isinstance(inner, _LEAVES) for inner in ast.walk(statement)):
            return


def _reads(expression: ast.expr, name: str) -> tuple[list[str], bool]:
    """
    Return the fields of *name* that an expression reads, up to the first other use of *name*, and
    True if there is another use.
    """
    fields: list[str] = []
    rest: list[ast.AST] = [expression]
    while rest:
        part = rest.pop()
        field = _field(part, name)
        if field is not None:
            fields.append(field)
        elif _is_name(part, name):
            return fields, True
        else:
            rest += reversed(list(_certain_parts(part, name)))
    return fields, False


def _field(part: ast.AST, name: str) -> str | None:
    match part:
        case ast.Attribute(value=owner, attr=field, ctx=ast.Load()) if _is_name(owner, name):
            return field
        case ast.Subscript(value=owner, slice=ast.Constant(value=str(field))) if _is_name(
            owner, name
        ):
            return field
    return None


def _is_name(expression: ast.AST, name: str) -> bool:
    return isinstance(expression, ast.Name) and expression.id == name


def _certain_parts(expression: ast.AST, name: str) -> Iterator[ast.AST]:
    match expression:
        case ast.Call(func=ast.Name(id=called)) if called in _HARMLESS:
            yield from (part for part in expression.args if not _is_name(part, name))
        case ast.BoolOp(values=[first, *_]) | ast.IfExp(test=first):
            yield first
        case ast.Lambda():
            pass
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            yield expression.generators[0].iter
        case _:
            yield from ast.iter_child_nodes(expression)
