"""Measure the shape of ``emit/``, and fail if a figure is over its limit.

``make lint`` runs this. A limit is a promise to the reader of the code: lower it when the code gets
better, and write down the reason when you raise one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from scripts import journeys, tools
from scripts.journeys import PACKAGE, ROOT

#: The largest allowed figures. A comment names a target that is not reached yet.
#:
#: The core is what emit/__init__ imports, directly or not: the graph, queues, the door, the host.
#: What hangs on it has no limit: the command line, the kit, whatever observes or draws.
LIMITS = {
    "circles of imports": 0,
    "depth of imports from emit/__init__": 10,  # 10, circles counted as one module
    # Three more since observers are told facts, one that begins what hangs on a worker, one for
    # calls that are awaited, one of the attributes of log records, and one of the public types.
    "modules of the core": 79,
    "public methods of a class": 20,
    # A program's version took 170: each process has one, so it is not beside the core. The facts
    # that observers are told took 970, half of it the documentation of their fields. The figures of
    # the last seconds and the project of a node took 100. Traces took 90: of retries, of dead
    # letters that are sent again, and of one-shot programs. Ending calls that were given up took
    # 120: without it a process is killed for each. The life of a worker, for what hangs on it, took
    # 100, a shared host that passes groups on 30, and the classes of authors' refusals 90.
    # The types of fields took 115: their declaration, and what they do to a result. Calls that are
    # awaited took 340, and log records that tell of their message 190. Taps, which are observers
    # that are shown messages, took 92. Groups of half a window took 5.
    # A test that drives a graph took 16: its clock, its marks, and the host's waits by it.
    # The types of the public API took 285: each option once more, and what a declaration returns.
    # Processes without a host that answer who looks at them took 60.
    # Reloads took 130: a process that was started beside its pool takes the place of another one.
    # What hangs on a worker sees its routers before the pool forks: 72. A late status: 5.
    # A process that emit dev has started hands it the log of nodes: 5.
    # RQ's line about a rejected message, which is no error, took 27.
    # Observers of a shared host's own processes took 8.
    "lines of the core": 23_745,
    "files that a message passes, there and back": 16,  # 14
    "calls on a message's way": 58,
    "changes of file on a message's way": 39,
    "files that only one of a message and a batch passes": 0,
    "files that a batch passes": 16,  # 14
    "files that a Celery delivery passes": 22,
    # Three of these ask whether a subclass has put a function around the node (wrap_node).
    "calls on a Celery delivery's way": 114,  # _begin, which tells that a run begins
}

#: The class without a limit: the documentation of 0.3 defines its public methods.
DOCUMENTED = "emit.router.core.Router"

#: Names of modules by the modules that they import.
Imports = dict[str, set[str]]


class Figure(NamedTuple):
    """One row of the output. Its name is one of LIMITS."""

    name: str
    value: int
    detail: str = ""


def main() -> int:
    """Print the figures. Return 1 if one is over its limit."""
    figures = [*of_the_source(), *of_the_ways()]
    for name, value, detail in figures:
        verdict = "OVER" if value > LIMITS[name] else ""
        print(f"{name:<52} {value:>6} of {LIMITS[name]:>6}  {verdict:<4} {detail}".rstrip())
    return int(any(figure.value > LIMITS[figure.name] for figure in figures))


# -- The source ------------------------------------------------------------------------------------


def of_the_source() -> Iterator[Figure]:
    sources = {name_of(path): path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    imports = {name: {*imported(name, tree, trees.keys())} for name, tree in trees.items()}
    groups = circles(imports)
    tangled = [group for group in groups if len(group) > 1]
    longest = deepest(imports, groups)
    widest, methods = max(public_methods(trees), key=lambda item: item[1])
    core = reachable("emit", imports)
    lines = sum(len(sources[name].splitlines()) for name in core)
    yield Figure("circles of imports", len(tangled), "; ".join(map(told, tangled)))
    yield Figure(
        "depth of imports from emit/__init__", len(longest), " > ".join(map(short, longest))
    )
    yield Figure("modules of the core", len(core), f"{len(sources)} in all of emit/")
    yield Figure("public methods of a class", methods, widest)
    yield Figure("lines of the core", lines)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(name: str, tree: ast.Module, modules: Collection[str]) -> Iterator[str]:
    """Yield each of our modules that *tree* imports, including imports for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [full if full in modules else node.module for full in inside]
        else:
            continue
        yield from (full for full in found if full in modules and full != name)


def reachable(start: str, imports: Imports) -> set[str]:
    """Return a module and all modules that it imports, by any number of steps."""
    found, todo = {start}, [start]
    while todo:
        new = imports[todo.pop()] - found
        found |= new
        todo += new
    return found


def circles(imports: Imports) -> list[list[str]]:
    """Return the strongly connected groups of modules (Tarjan), each after those it imports."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(imports[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            groups.append(stack[at:])
            del stack[at:]

    for name in sorted(imports):
        if name not in index:
            visit(name)
    return groups


def deepest(imports: Imports, groups: list[list[str]]) -> list[str]:
    """Return the longest chain of imports from ``emit``; a circle counts as one module."""
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    chains: list[list[str]] = []
    for number, group in enumerate(groups):  # the imports of a group come before it
        below = {group_of[other] for name in group for other in imports[name]} - {number}
        longest = max((chains[other] for other in below), key=len, default=[])
        chains.append([min(group, key=len), *longest])
    return chains[group_of["emit"]]


def public_methods(trees: dict[str, ast.Module]) -> Iterator[tuple[str, int]]:
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and f"{module}.{node.name}" != DOCUMENTED:
                kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
                defined = {item.name for item in node.body if isinstance(item, kinds)}
                yield f"{short(module)}.{node.name}", sum(name[0] != "_" for name in defined)


def short(module: str) -> str:
    return module.removeprefix("emit.")


def told(group: list[str]) -> str:
    return " = ".join(sorted(map(short, group), key=len))


# -- A message's way -------------------------------------------------------------------------------


def of_the_ways() -> Iterator[Figure]:
    if reason := tools.lack(tools.named("ruby")):
        print(f"left out the ways of messages: {reason}")
        return
    message, batch = journeys.of_a_message(), journeys.of_a_batch()
    delivery = journeys.of_a_delivery()
    apart = message.files ^ batch.files
    yield Figure("files that a message passes, there and back", len(message.files))
    yield Figure("calls on a message's way", len(message.calls))
    yield Figure("changes of file on a message's way", message.changes)
    yield Figure(
        "files that only one of a message and a batch passes", len(apart), ", ".join(sorted(apart))
    )
    yield Figure("files that a batch passes", len(batch.files))
    yield Figure("files that a Celery delivery passes", len(delivery.files))
    yield Figure("calls on a Celery delivery's way", len(delivery.calls))


if __name__ == "__main__":
    sys.exit(main())
