"""The attributes of log records that tell which message they are about."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode, context
from emit.context import Context
from emit.host.host import Host
from emit.host.settings import Settings
from emit.host.system.program import Program, environment
from emit.observe import Started
from emit.observe.logs import MessageFilter
from tests.faults.nodes import PATH
from tests.shared_hosts import client, serving

pytestmark = pytest.mark.slow

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"

PROGRAM = """
import logging, sys
from emit_sdk import node

@node
def tell(msg):
    logging.getLogger("shop").warning("log %d", msg.n)
    print("stderr", msg.n, file=sys.stderr, flush=True)
    return msg.n
"""


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, logger="emit")
    yield
    context.current.set(None)


def about(record: logging.LogRecord) -> tuple[Any, ...]:
    names = ("node", "id", "origin", "attempt", "trace_id", "span_id")
    return tuple(getattr(record, f"emit_{name}") for name in names)


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if text in record.getMessage()]


def node(tmp_path: Path, router: Router) -> Any:
    program = tmp_path / "tell.py"
    program.write_text(PROGRAM)
    tell = type("tell", (ShellNode,), {"file": str(program), "size": 1})
    return router.node(("n",), entry_point=True, name="tell")(tell)


def test_a_message_of_no_queue(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Records of the router and the program have the node, and the run's trace if it has one."""
    router = Router()
    node(tmp_path, router)

    @router.observe
    def trace(fact: Any) -> Any:
        return {"traceparent": PARENT} if isinstance(fact, Started) else None

    with router:
        router(n=1)
    (received,) = said(caplog, "received a message from")
    assert about(received)[:3] == ("tell", None, "__entry_point")
    for text in ("log 1", "stderr 1"):
        (record,) = said(caplog, text)
        assert about(record) == ("tell", None, None, 1, TRACE, SPAN)
    (started,) = said(caplog, "ready after")
    assert about(started) == ("tell", None, None, None, None, None)


@pytest.mark.parametrize("kind", ["private", "shared"])
def test_the_messages_of_a_batch(
    kind: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    short_folder: Path,
) -> None:
    """Each line that a program logs is about its own message, also in a host for the machine."""
    file = tmp_path / "tell.py"
    file.write_text(PROGRAM + "\nfrom emit_sdk import serve\nserve()\n")

    def messages(first: int, last: int) -> Iterator[dict[str, Any]]:
        for n in range(first, last):
            context.current.set(Context(f"id-{n}", "tell", "from", n, PARENT))
            yield {"n": n}
        context.current.set(None)

    def check(calls: Any) -> None:
        assert list(calls.call_many(messages(1, 2))) == [[1]]
        assert len(list(calls.call_many(messages(2, 40)))) == 38
        for n in range(1, 40):
            (record,) = said(caplog, f"log {n}") if n > 9 else said(caplog, f"log {n}")[:1]
            assert about(record) == ("tell", f"id-{n}", "from", n, TRACE, SPAN)
        assert about(said(caplog, "stderr 1")[0]) == ("tell", "id-1", "from", 1, TRACE, SPAN)

    command = [sys.executable, str(file)]
    if kind == "private":
        program = Program("tell", tuple(command), environment({"PYTHONPATH": PATH}))
        host = Host()
        check(host.calls("tell", lambda: program, Settings(mode="persistent", size=1)))
        host.close()
    else:
        path = short_folder / "host.sock"
        with serving(path), client(path, command, name="tell") as calls:
            check(calls)


def test_a_program_for_one_message(caplog: pytest.LogCaptureFixture) -> None:
    """Its lines are about that message."""
    router = Router()
    shell = {"command": ["sh", "-c", "cat; echo hello >&2"], "mode": "oneshot"}
    router.node(("n",), name="once")(type("once", (ShellNode,), shell))
    context.current.set(Context("7", "once", "from", 2))
    router.functions["once"](n=1)
    (record,) = said(caplog, "hello")
    assert about(record) == ("once", "7", "from", 2, None, None)


def test_a_filter_for_other_loggers() -> None:
    """A handler's own records are about the message that its thread handles."""
    handler, records = logging.Handler(), list[logging.LogRecord]()
    handler.emit = records.append  # type: ignore[method-assign]
    handler.addFilter(MessageFilter())
    logger = logging.getLogger("shop.of.this.test")
    logger.addHandler(handler)
    logger.warning("one")
    context.current.set(Context("7", "words", traceparent="no trace"))
    logger.warning("two")
    assert [about(record) for record in records] == [
        (None, None, None, None, None, None),
        ("words", "7", "", 1, None, None),
    ]
