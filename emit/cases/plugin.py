"""
The plugin of pytest: the fixtures ``emit_drive`` and ``emit_node``, and files of cases as tests.

pytest loads it by its entry point, with every run. So it imports more only when a test needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from emit.cases.format import Case, Cases
    from emit.router import Router
    from emit.testing import Drive

#: The routers that were driven in this session: their processes stay from test to test.
_driven = pytest.StashKey[dict[int, Any]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_driven] = {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave no process behind."""
    driven = session.config.stash[_driven]
    for router in driven.values():
        router.close()
    driven.clear()


@pytest.fixture
def emit_drive(request: pytest.FixtureRequest) -> Iterator[Callable[[Router], Drive]]:
    """
    Drive a graph as ``emit.testing.drive`` does, until the test ends: ``emit_drive(router)``.

    Processes of programs stay for the next test. A test fails if there are dead letters that it has
    not looked at.
    """
    testing = import_module("emit.testing")
    drives: list[Drive] = []
    with ExitStack() as stack:

        def drive(router: Router, **options: Any) -> Drive:
            drives.append(stack.enter_context(testing.drive(router, **options)))
            request.config.stash[_driven][id(router)] = router
            return drives[-1]

        yield drive
    for each in drives:
        each.check()


@pytest.fixture
def emit_node() -> Iterator[Callable[..., Any]]:
    """
    Call a node alone: ``node = emit_node("nodes/words.rb")`` or ``emit_node("app.router:words")``,
    and ``node(text="the rain")`` returns the list of its results.
    """
    play = import_module("emit.cases.play")
    with ExitStack() as stack:

        def make(target: str) -> Callable[..., list[Any]]:
            call = stack.enter_context(play.calling(target))
            return lambda **fields: results_of(call(fields))

        yield make


def results_of(results: tuple[Any, ...]) -> list[Any]:
    made: list[Any] = import_module("emit.testing.driver").Results(results)
    return made


# -- Files of cases --------------------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".ndjson" or not _is_cases(file_path):
        return None
    return CaseFile.from_parent(parent, path=file_path)


def _is_cases(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"emit_cases"' in file.readline(65536)


class CaseFile(pytest.File):
    """A file of cases: each line is a test."""

    def collect(self) -> Iterator[pytest.Item]:
        error = import_module("emit.cases.format").CaseError
        try:
            self.cases: Cases = import_module("emit.cases.format").read(self.path)
        except error as wrong:
            raise self.CollectError(str(wrong)) from wrong
        for case in self.cases.each:
            name = f"{case.line} {case.name}".strip()
            yield CaseItem.from_parent(self, name=f"line {name}", case=case)

    def setup(self) -> None:
        """Find the node. Its processes stay until the last case of the file."""
        self._stack = ExitStack()
        calling = import_module("emit.cases.play").calling
        self.call = self._stack.enter_context(calling(self.cases.target))

    def teardown(self) -> None:
        self._stack.close()


class CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: Case, **options: Any) -> None:
        super().__init__(**options)
        self._case = case

    def runtest(self) -> None:
        parent: Any = self.parent
        play = import_module("emit.cases.play").play
        outcome = play(self._case, parent.call, parent.cases.settings)
        if outcome.differences:
            raise Differs("\n".join(outcome.lines()))

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        if isinstance(excinfo.value, Differs):
            return f"{self.path}:{self._case.line}: the results differ\n{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self._case.line - 1, self.name


class Differs(Exception):
    """The results of a case differ from those recorded."""


# -- Differences -----------------------------------------------------------------------------------


def pytest_assertrepr_compare(op: str, left: Any, right: Any) -> list[str] | None:
    """Tell the fields that differ, if results of a graph are compared."""
    driver = sys.modules.get("emit.testing.driver")
    if op != "==" or driver is None:
        return None
    for actual, expected in ((left, right), (right, left)):
        if isinstance(actual, driver.Results) and isinstance(expected, (list, tuple)):
            told = import_module("emit.cases.compare").differences(expected, actual)
            if told:
                return [f"{len(actual)} results, and {len(expected)} expected", *map(str, told)]
    return None
