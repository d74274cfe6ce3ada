"""Follow real messages through ``emit/``, and write their ways into docs/architecture.md.

    python -m scripts.journeys          # print the block of the page
    python -m scripts.journeys write    # put it into the page

The description in a row is written by hand. It is kept as long as the row has the same file and
direction.
"""

from __future__ import annotations

import gc
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "emit"
PAGE = ROOT / "docs" / "architecture.md"

#: The lines around the block in the page.
BEGIN, END = "<!-- ways: python -m scripts.journeys write -->", "<!-- end of ways -->"

#: The description of a row that nobody has described yet.
UNTOLD = "?"

#: The program that the messages go to. It answers each message with the same fields.
PROGRAM = "def same(word:) = { word: word }\n"

#: Number of messages in the batch.
BATCH = 3

#: How often each is sent. The first one starts the program, and any may have to wait twice.
TIMES = 4

#: C functions that send bytes to a program.
WRITES = {"write", "writev", "send", "sendall", "sendmsg"}

#: Frames that later versions of Python no longer have.
INLINED = {"<listcomp>", "<setcomp>", "<dictcomp>"}

#: Seconds for the Celery worker in this process to do its work.
PATIENCE = 60.0


class Call(NamedTuple):
    """A call of one of our functions: its file, below ``emit/``, and its name."""

    file: str
    function: str


class Way(NamedTuple):
    """The calls on a message's way: until the message is written to the program, and after."""

    there: list[Call]
    back: list[Call]

    @property
    def calls(self) -> list[Call]:
        return [*self.there, *self.back]

    @property
    def files(self) -> set[str]:
        return {call.file for call in self.calls}

    @property
    def changes(self) -> int:
        """The number of calls that are in another file than the call before."""
        return len([*groupby(call.file for call in self.calls)]) - 1


class Tracer:
    """Records the ways of messages, in a thread that has :attr:`note` as its profiler."""

    def __init__(self) -> None:
        self._ways: list[Way] = []
        self._on: Way | None = None
        self._written = False

    def note(self, frame: FrameType, event: str, function: Any) -> None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if self._on is None or not file.startswith(f"{PACKAGE}/"):
            return
        if event == "call" and name not in INLINED:
            calls = self._on.back if self._written else self._on.there
            calls.append(Call(file.removeprefix(f"{PACKAGE}/"), name))
        elif event == "c_call" and function.__name__ in WRITES:
            self._written = True

    def begin(self, **_: Any) -> None:
        """Begin a way. The garbage collector is off until its end: it calls functions anywhere."""
        gc.disable()
        self._on, self._written = Way([], []), False

    def end(self, **_: Any) -> None:
        gc.enable()
        if self._on is not None:
            self._ways.append(self._on)
        self._on = None

    @property
    def shortest(self) -> Way:
        """The shortest way: the program was running, and nothing had to wait twice."""
        way = min(self._ways, key=lambda way: len(way.calls))
        if not way.back:
            raise ValueError("nothing was written to a program")
        return way


# -- The ways --------------------------------------------------------------------------------------


@cache
def of_a_message() -> Way:
    """Follow a message from Python to a warm Ruby program, and its result to Python."""
    return _through_a_router(1)


@cache
def of_a_batch() -> Way:
    """Follow several messages from one Python node to a program, and their results."""
    return _through_a_router(BATCH)


@cache
def of_a_delivery() -> Way:
    """Follow a Celery task through a worker to a program, and its result into the queue."""
    import celery
    from celery import signals
    from celery.contrib.testing.worker import start_worker
    from kombu.transport.memory import Channel

    from emit import CeleryRouter

    app = celery.Celery("journeys", broker="memory://", set_as_current=False)
    app.conf.update(task_ignore_result=True, broker_transport_options={"polling_interval": 0.05})
    # No worker serves this queue, so the second task is not followed.
    app.conf.task_routes = {"journeys.sink": "elsewhere"}
    router = CeleryRouter(celery_task=app.task(shared=False))
    tracer, ended = Tracer(), threading.Semaphore(0)

    def end(**_: Any) -> None:
        tracer.end()
        ended.release()

    with ExitStack() as stack:
        stack.callback(Channel.queues.clear)  # all apps of a process share them
        stack.callback(app.close)
        stack.enter_context(router)
        program = stack.enter_context(_program())
        node = router.node(("word",), entry_point=True, name="journeys.same")(program)
        router.node((), node, name="journeys.sink")(_unheard)
        signals.task_received.connect(tracer.begin)
        signals.task_postrun.connect(end)
        threading.setprofile(tracer.note)
        try:
            options = {"pool": "solo", "perform_ping_check": False, "shutdown_timeout": PATIENCE}
            stack.enter_context(start_worker(app, **options))
        finally:
            threading.setprofile(None)
        for number in range(TIMES):
            router(word=f"word {number}")
            if not ended.acquire(timeout=PATIENCE):
                raise TimeoutError(f"the worker has not run task {number}")
        app.control.shutdown()  # a message: the worker checks its end flag only every 2 s
    return tracer.shortest


def _through_a_router(count: int) -> Way:
    from emit import Router

    router, tracer = Router(), Tracer()
    said = [f"word {number}" for number in range(count)]
    got: list[str] = []

    @router.node(("word",), entry_point=True, name="words")
    def words(msg: Any) -> Any:
        yield from msg.words

    with _program() as program, router:
        router.node(("word",), "words", name="same", batch=BATCH)(program)
        router.node((), "same", name="sink")(lambda msg: got.append(msg.word))
        for _ in range(TIMES):
            tracer.begin()
            sys.setprofile(tracer.note)
            try:
                router(words=said)
            finally:
                sys.setprofile(None)
                tracer.end()
    if got != said * TIMES:
        raise ValueError(f"{said} was sent {TIMES} times, and {got} arrived")
    return tracer.shortest


def _unheard(msg: Any) -> None:
    """Stand for a node whose queue no worker serves here."""


@contextmanager
def _program() -> Iterator[Any]:
    from emit import ShellNode

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "same.rb")
        path.write_text(PROGRAM)

        class Same(ShellNode):
            file = str(path)
            size = 1

        yield Same


# -- The page --------------------------------------------------------------------------------------


def block(page: str) -> str:
    """Return the right block, with the descriptions of the block in *page*."""
    message, batch, delivery = of_a_message(), of_a_batch(), of_a_delivery()
    words = {(way, file): text for way, file, text in _rows(page)}
    lines = [BEGIN, "", "| way | file | first | what happens |", "|---|---|---|---|"]
    for direction, calls in zip(Way._fields, message, strict=True):
        for file, function in _firsts(calls).items():
            text = words.get((direction, file), UNTOLD)
            lines.append(f"| {direction} | `emit/{file}` | `{function}` | {text} |")
    for name, way in (("A batch", batch), ("A delivery of Celery's", delivery)):
        for direction, calls in zip(Way._fields, way, strict=True):
            files = " → ".join(f"`{file.removesuffix('.py')}`" for file in _firsts(calls))
            lines += ["", f"{name}, {direction}: {files}"]
    return "\n".join([*lines, "", END])


def written(page: str) -> str:
    """Return the block that *page* has."""
    start, end = page.index(BEGIN), page.index(END)
    return page[start : end + len(END)]


def _rows(page: str) -> list[tuple[str, str, str]]:
    row = re.compile(r"^\| (there|back) \| `emit/(\S+)` \| `\S+` \| (.*) \|$", re.MULTILINE)
    return row.findall(written(page))


def _firsts(calls: list[Call]) -> dict[str, str]:
    """Return the files in the order of their first calls, each with the function called first."""
    found: dict[str, str] = {}
    for file, function in calls:
        found.setdefault(file, function)
    return found


def main(action: str = "") -> int:
    page = PAGE.read_text("utf-8")
    new = block(page)
    if action == "write":
        PAGE.write_text(page.replace(written(page), new), "utf-8")
    else:
        print(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
