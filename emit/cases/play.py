"""Gives the messages of cases to their node again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from emit.cases.compare import Difference, differences
from emit.cases.format import Case, Settings
from emit.cli.nodes import load_node, make_node, split_node
from emit.cli.output import describe_failure
from emit.message import NoResult

#: Takes the fields of a message, and perhaps its origin. Returns the results.
Call = Callable[..., tuple[Any, ...]]


class Outcome(NamedTuple):
    """
    What a node made of a case's message.

    Attributes:
        case: The case with the new results, or the new error.
        differences: The differences from the old one; empty if there are none.
        failure: The exception that the node raised, or None.
    """

    case: Case
    differences: list[Difference]
    failure: Exception | None = None

    def lines(self) -> Iterator[str]:
        """Yield what is to be told to people: each difference, and where the node failed."""
        yield from map(str, self.differences)
        if self.failure is not None and self.differences:
            yield from describe_failure(self.failure)[1:]


@contextmanager
def calling(target: str) -> Iterator[Call]:
    """
    Find a node, as ``emit call`` does, and keep its processes until the block ends.

    Raises:
        CommandError: There is no such node.
        GraphError: Its declaration is wrong.
    """
    with ExitStack() as stack:
        if split_node(target) is None:
            node = make_node(target)
            stack.callback(node.close)
            yield lambda fields, origin="": tuple(node(dict(fields)))
            return
        router, name = load_node(target)
        stack.enter_context(router)
        stack.enter_context(router.routing_disabled())
        function = router.functions[name]

        def call(fields: Mapping[str, Any], origin: str = "") -> tuple[Any, ...]:
            outcome = function({**fields, "_origin": origin})
            if outcome is NoResult:
                return ()
            return outcome if isinstance(outcome, tuple) else (outcome,)

        yield call


def play(case: Case, call: Call, settings: Settings) -> Outcome:
    """Give a case's message to a node, and compare what comes of it."""
    try:
        results = call(case.message, case.origin)
    except Exception as failure:
        kind = getattr(failure, "type", "") or type(failure).__name__
        is_expected = case.error in (kind, type(failure).__name__)
        found = [] if is_expected else [_failed(case, failure, kind)]
        return Outcome(replace(case, results=(), error=kind), found, failure)
    new = replace(case, results=results, error="")
    if case.error:
        return Outcome(new, [Difference("outcome", f"{case.error}", f"{len(results)} results")])
    return Outcome(new, differences(case.results, results, settings))


def _failed(case: Case, failure: Exception, kind: str) -> Difference:
    expected = case.error or f"{len(case.results)} results"
    return Difference("outcome", expected, f"{kind}: {describe_failure(failure)[0]}")
