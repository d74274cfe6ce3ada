"""Calls that are given up, in the languages whose SDKs can end them: the process is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emit.errors import CallTimeout
from scripts.conformance import SDKS, Sdk
from tests.conftest import require
from tests.faults.nodes import pool

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("leak_free")]

#: Seconds that no test waits.
LONG = 600


@pytest.fixture(scope="module", params=SDKS, ids=lambda sdk: sdk.language)
def command(request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    """A program with the nodes of tests/conformance/README.md."""
    sdk: Sdk = request.param
    require(*sdk.tools)
    with sdk.built() as command:
        yield command


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_stream_that_is_left(command: tuple[str, ...], codec: str) -> None:
    """Its handler ends, and the next message has the process and its own results."""
    with pool(command, name="wait", codec=codec, cancel_grace=60.0) as node:
        for _ in range(3):
            stream = node.stream({"seconds": LONG})
            assert next(stream) == "began"
            stream.close()
            assert node.call({"seconds": 0}) == ["began", "waited"]
        assert node.snapshot()["starts"] == 1


def test_a_batch_that_is_left(command: tuple[str, ...]) -> None:
    """The calls of a group are cancelled: the one at work, and those that have not begun."""
    with pool(command, name="wait", cancel_grace=60.0) as node:
        messages = [{"seconds": LONG if n == 20 else 0} for n in range(300)]
        outcomes = node.call_many(messages)
        assert [next(outcomes) for _ in range(20)] == [["began", "waited"]] * 20
        outcomes.close()
        assert node.call({"seconds": 0}) == ["began", "waited"]
        assert node.snapshot()["starts"] == 1


@pytest.mark.requires("ruby", "ruby-msgpack")
def test_a_handler_of_ruby_that_asks_nothing() -> None:
    """It gets an exception, and those that were sent ahead run in the same process."""
    [ruby] = [sdk for sdk in SDKS if sdk.language == "ruby"]
    messages = [{"seconds": LONG if n == 3 else 0, "value": n} for n in range(100)]
    settings = {"timeout": 2.0, "cancel_grace": 60.0, "max_attempts": 1}
    with ruby.built() as command, pool(command, name="slow", **settings) as node:
        outcomes = list(node.call_many(messages))
        assert [outcome for n, outcome in enumerate(outcomes) if n != 3] == [
            [n] for n in range(100) if n != 3
        ]
        assert isinstance(outcomes[3], CallTimeout)
        assert node.snapshot()["starts"] == 1
