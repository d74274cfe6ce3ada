"""Check that a piece of code leaves no descriptors, threads or processes behind."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import psutil

from emit.host.host import current
from emit.host.system.program import environment
from emit.host.system.spawn import Program, start

#: Threads and processes that a host keeps from its first start until its end.
IMMORTAL = ("emit-spawner", "emit-closer", "emit-status", "sentinel.py")


class Held(NamedTuple):
    """The resources that this process holds, each list sorted."""

    descriptors: list[str]
    threads: list[str]
    children: list[str]


def held() -> Held:
    threads = [t.name for t in threading.enumerate() if t.name not in IMMORTAL]
    return Held(_descriptors(), sorted(threads), sorted(_children()))


@contextlib.contextmanager
def no_leaks(within: float = 60.0) -> Iterator[None]:
    """
    Assert that the body leaves as many descriptors, threads and children as it found.

    A thread closes dropped descriptors, so this waits for up to *within* seconds.

    The garbage of other tests is collected before the body: otherwise its descriptors would be
    closed in the middle of it. The remaining objects are frozen, as the next collection would
    otherwise take as long again.
    """
    gc.collect()
    gc.freeze()
    start(Program("warm-up", ("true",), environment({}))).close()
    current()
    before = held()
    yield
    end = time.monotonic() + within
    while not _matches(after := held(), before) and time.monotonic() < end:
        time.sleep(0.005)
    if not _matches(after, before):
        raise AssertionError(_difference(after, before))


def _matches(after: Held, before: Held) -> bool:
    """
    Return True if nothing is new. Fewer descriptors are allowed only if a thread or child of before
    has ended since.
    """
    more = any(Counter(now) - Counter(then) for now, then in zip(after, before, strict=True))
    ended = (after.threads, after.children) != (before.threads, before.children)
    return not more and (ended or after == before)


def _difference(after: Held, before: Held) -> str:
    kinds = zip(Held._fields, after, before, strict=True)
    return "\n".join(
        f"{kind}: more {list((Counter(now) - Counter(then)).elements())},"
        f" fewer {list((Counter(then) - Counter(now)).elements())}"
        for kind, now, then in kinds
    )


def _descriptors() -> list[str]:
    """Return the kinds of descriptors, such as ``pipe``, without the one of this listing."""
    if sys.platform != "linux":
        return ["descriptor"] * len(os.listdir("/dev/fd"))
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}").partition(":[")[0])
    return sorted(target for target in found if not target.endswith(f"{os.getpid()}/fd"))


def _children() -> Iterator[str]:
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            words = child.cmdline()
            if not any(word.endswith(IMMORTAL) for word in words):
                yield f"{child.pid} {' '.join(words)}"
