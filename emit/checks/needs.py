"""
Which fields a Python handler certainly reads, told from its source.

Only what every message runs through counts: nothing behind an ``if``, in a ``try``, in the body
of a loop, after a possible ``return``, or after the message was given to somebody else. So a
field that is named here is needed, and others may be, too.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence

#: Calls that leave a message as it is.
_HARMLESS = frozenset({"dict", "len", "list", "print", "repr", "str"})

_LEAVES = (ast.Return, ast.Raise, ast.Break, ast.Continue)


def certain_reads(
    function: ast.FunctionDef | ast.AsyncFunctionDef, ignored: Collection[str] = ()
) -> tuple[str, ...]:
    """
    The fields that a handler reads of any message.

    Args:
        function: Its definition; the message is its last positional parameter.
        ignored: Names that are no fields, such as the methods of the message's class.

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
    """Yield the expressions that are evaluated for certain, in order."""
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
                continue  # what returns in there does not return here
            case ast.Try():
                pass
            case _:
                yield from (x for x in ast.iter_child_nodes(statement) if isinstance(x, ast.expr))
        if any(isinstance(inner, _LEAVES) for inner in ast.walk(statement)):
            return


def _reads(expression: ast.expr, name: str) -> tuple[list[str], bool]:
    """
    The fields of *name* that an expression reads, up to the first other use of it, and whether
    there is one.
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
