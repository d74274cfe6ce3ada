"""Measure microseconds per message on the wire, and compare with the bare codecs.

A message of 100 bytes is called and answered. The bare codec encodes the message and decodes the
answer; the session adds ids, checks of every value and the table of states. Messages come in chunks
of 256, as in `call_many`. There is no pipe and no process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import measure
import msgpack  # type: ignore[import-untyped]
import orjson

from emit.host.wire.codec import encode
from emit.host.wire.frames import End, Ready
from emit.host.wire.session import Session

MESSAGES = 256
MESSAGE = {
    "sku": "A-1000",
    "count": 3,
    "price": 12.5,
    "name": "some words here",
    "tags": ["a", "b"],
    "flag": True,
}
META = {"origin": "split", "attempt": 1, "deadline_ms": 30_000}
#: Targets, in multiples of the bare codec, which checks nothing and matches no answers to calls.
TARGETS = {"json": 4.5, "msgpack": 3.0}
BARE = {"json": (orjson.dumps, orjson.loads), "msgpack": (msgpack.packb, msgpack.unpackb)}


def main() -> None:
    rows = []
    for codec, target in TARGETS.items():
        contestants = {
            "bare": bare(*BARE[codec]),
            "session": session(codec, None),
            "with meta": session(codec, META),
        }
        taken = measure.rounds(contestants, 60)
        for name, times in taken.items():
            typical = statistics.median(times)
            times_bare = measure.ratio(times, taken["bare"])
            goal = "" if name == "bare" else f"{target}, {measure.verdict(times_bare <= target)}"
            rows.append((f"{codec}, {name}", f"{typical:.2f}", f"{times_bare:.2f}", goal))
    measure.table(("", "us per message", "times bare", "target"), rows)


def bare(dump: Callable[[Any], bytes], load: Callable[[bytes], Any]) -> Callable[[], float]:
    """Encode each message and decode each answer, one by one."""
    answer = dump({"op": "end", "id": 1234, "msgs": [MESSAGE]})

    def run() -> float:
        began = time.process_time()
        for _ in range(MESSAGES):
            dump(MESSAGE)
            load(answer)
        return (time.process_time() - began) / MESSAGES * 1e6

    return run


def session(codec: str, meta: dict[str, Any] | None) -> Callable[[], float]:
    """Write calls one by one, and receive their answers in one piece."""
    conversation = Session("node", codecs=[codec])
    conversation.hello()
    conversation.receive(encode(Ready(1, codec)))

    def run() -> float:
        began = time.process_time()
        buffer = bytearray()
        for _ in range(MESSAGES):
            buffer += conversation.call(MESSAGE, meta=meta)[1]
        called = time.process_time() - began
        answers = b"".join(encode(End(id, [MESSAGE]), codec) for id in conversation.open)
        began = time.process_time()
        events = conversation.receive(answers)
        taken = called + time.process_time() - began
        assert len(events) == MESSAGES
        return taken / MESSAGES * 1e6

    return run


if __name__ == "__main__":
    main()
