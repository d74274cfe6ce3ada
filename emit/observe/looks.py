"""
Looks: somebody wants to know what passes in other processes, for a while.

A look has a wish: counts of messages, or messages themselves. Whoever looks has an :class:`Outlet`,
which asks the processes of this user on their sockets (:mod:`emit.host.status`) every second. A
process that is asked begins to observe its routers. It answers with its counts so far, and with the
messages that have passed since it was asked before.

1. A process that nobody looks at observes nothing, and pays nothing.
2. Nothing waits: a process keeps a limited number of messages for each look, and drops the rest.
3. A look ends by itself if it is not asked for again in time.
4. A process that is forked is looked at from its beginning. At its end it sends what is left to the
   outlet, as a datagram. If it is killed, that is lost: what it has counted in the last second.
5. The outlet is in the folder of the sockets, which only its user may enter.
6. A look over machines is the same: :mod:`emit.observe.taps` has an outlet in each worker.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from emit.exact import Inexact, to_text
from emit.forks import at_fork
from emit.host import status
from emit.host.place import project
from emit.host.system.private import private
from emit.observe import observers
from emit.observe.tap import HIDDEN, Passed, Point, Valve, hide
from emit.observe.totals import Totals

__all__ = ["Outlet", "Seen", "Wish", "answer", "brief", "open"]

#: Seconds after which a look that is not asked for again ends.
KEPT = 5.0

#: Limits of one message as it is shown: characters of a text and of all of them together, entries
#: of a map or a list and of all of them together, and depth. A name has so many characters always.
_TEXT, _TEXTS, _ENTRIES, _ALL, _DEPTH, _NAME = 1000, 16_000, 100, 1000, 12, 60

#: Characters of a message that is shown whole, at most: its answer has to fit a datagram.
_WHOLE = 60_000

#: Messages that a process keeps for a look, and characters of them in one answer.
_WAITING, _ANSWER = 1000, 1_000_000

#: Bytes of a datagram, at most.
_DATAGRAM = 128 * 1024

#: Seconds to ask all processes, and seconds of silence after which a process has ended: longer than
#: a look at it is kept.
_ROUND, _ENDED = 1.0, 30.0


class Wish(NamedTuple):
    """
    What a look is to see.

    Attributes:
        id: Tells it from others.
        counts: Count messages.
        points: Show messages of these nodes and edges, as of :class:`emit.observe.tap.Point`;
            empty: of all nodes. None: show no messages.
        redact: Names of fields to hide, beside those that the router of a process names.
        rate: The most messages a second that a process shows.
        whole: Show messages and results exactly, as `emit.exact.to_text` writes them, in place of
            fields. If that is not possible, the fields are the reason why not: a map with "not".
        project: Look at processes of this project only, as of :meth:`emit.host.host.Host.snapshot`;
            empty: at all. Another project may have nodes of the same names.
        node: Of workers, tell once the last errors of this node and the stderr of its processes,
            as of :meth:`emit.host.host.Host.describe`.
    """

    id: str
    counts: bool = False
    points: list[list[str | None]] | None = None
    redact: list[str] = []  # noqa: RUF012  # nobody adds to it
    rate: float = 10.0
    whole: bool = False
    project: str = ""
    node: str = ""

    @classmethod
    def read(cls, told: Any) -> Wish:
        """
        Read a wish that has come as JSON: a list.

        Raises:
            ValueError: It is not a wish.
        """
        try:
            wish = cls(*told)
            points = [Point(*map(_named, point)) for point in wish.points or ()]
            if not all(isinstance(name, str) for name in wish.redact) or None in {
                point.node for point in points
            }:
                raise TypeError
            return wish._replace(id=str(wish.id), rate=float(wish.rate))
        except (TypeError, ValueError) as error:
            raise ValueError("this is no look: is its Emit of another version?") from error


def _named(name: Any) -> Any:
    if name is not None and not isinstance(name, str):
        raise TypeError
    return name


class Seen(NamedTuple):
    """
    A message, a result or an end, as a look shows it.

    Attributes:
        passed: As of :class:`emit.observe.tap.Passed`. The fields are JSON's; long ones are cut.
            The way ``begin``: this worker begins to look. The way ``describe``: the fields are
            those of :meth:`emit.host.host.Host.describe`.
        pid: The process.
        machine: Its machine; empty: this one.
        worker: The worker that the process belongs to; empty if it has none.
    """

    passed: Passed
    pid: int
    machine: str = ""
    worker: str = ""


# -- The side of the process -----------------------------------------------------------------------


class _Look:
    """One look at this process."""

    def __init__(self, wish: Wish, path: str) -> None:
        self.wish = wish
        self.until = 0.0
        self._path = path
        self._watching: dict[observers.Observers, list[Any]] = {}
        self._begin()

    def _begin(self) -> None:
        """Have seen nothing yet."""
        self.totals = Totals()
        self.dropped = 0
        self._key = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._passed: deque[str] = deque()

    def begin_again(self) -> None:
        """Go on in a forked child, which has seen nothing yet."""
        until, watching = self.until, list(self._watching)
        self.stop()
        self._begin()
        self.until = until
        self.observe(watching)

    def renew(self) -> None:
        """Go on for a while."""
        self.until = time.monotonic() + KEPT
        self.observe(list(observers.here))

    def observe(self, routers: Iterable[observers.Observers]) -> None:
        """Observe routers, too."""
        for router in routers:
            if router not in self._watching:
                mine = self._watching[router] = [*self._observers(router)]
                for each in mine:
                    router.add(each)

    def _observers(self, router: observers.Observers) -> Iterator[Any]:
        # At least one of them is there, and tells what is left at the end.
        if self.wish.counts or self.wish.points is None:
            yield _Counting(self)
        if self.wish.points is not None:
            points = [Point(str(node), origin) for node, origin in self.wish.points]
            names = frozenset(name.lower() for name in (*router.redact, *self.wish.redact))
            yield _Showing(self, points, names)

    def is_over(self) -> bool:
        """End if nobody has asked for it in time."""
        if time.monotonic() < self.until:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Observe no longer."""
        self.stop()
        if _looks.get(self._path) is self:
            del _looks[self._path]

    def stop(self) -> None:
        self.until = 0.0
        for router, mine in self._watching.items():
            for each in mine:
                router.remove(each)
        self._watching = {}

    def keep(self, passed: Passed) -> None:
        """Keep what has passed until the next answer, or drop it."""
        if len(self._passed) < _WAITING:
            self._passed.append(json.dumps(passed, separators=(",", ":")))
        else:
            self.dropped += 1

    def told(self, size: int = _ANSWER) -> dict[str, Any]:
        """Return the counts so far, and so many characters of what has passed meanwhile."""
        passed = []
        while self._passed and size > 0:
            passed.append(self._passed.popleft())
            size -= len(passed[-1])
        return {
            "look": self.wish.id,
            "key": self._key,
            "pid": os.getpid(),
            "counts": self.totals.told() if self.wish.counts else None,
            "passed": passed,
            "dropped": self.dropped,
        }

    def flush(self) -> None:
        """Tell what is left, since this process may end."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(json.dumps(self.told(_DATAGRAM // 2)).encode(), self._path)


class _Counting:
    """Counts the facts of a router for a look."""

    def __init__(self, look: _Look) -> None:
        self._look = look
        self._count = look.totals
        self.flush = look.flush

    def __call__(self, fact: Any) -> None:
        if time.monotonic() < self._look.until or not self._look.is_over():
            self._count(fact)


class _Showing(Valve):
    """Shows messages of a router to a look."""

    def __init__(self, look: _Look, points: Iterable[Point], names: frozenset[str]) -> None:
        super().__init__(points, self._show, (), look.wish.rate)
        self._look = look
        self._hidden = names
        self.flush = look.flush

    def message(self, fact: Any, fields: Mapping[str, Any]) -> None:
        if not self._look.is_over():
            super().message(fact, fields)

    def _show(self, passed: Passed) -> None:
        show = whole if self._look.wish.whole else brief
        shown: Any = None if passed.fields is None else show(passed.fields, self._hidden)
        self._look.keep(passed._replace(fields=shown))


def brief(value: Any, names: frozenset[str] = frozenset()) -> Any:
    """
    Return a value as JSON has it, without hidden fields, and cut to a few thousand characters. What
    is cut off is named in its place.

    Args:
        value: Any value of a message.
        names: Names of fields to hide, in lower case.

    Example:
        >>> brief({"text": "rain" * 1000, "Key": 1}, frozenset({"key"}))["text"][-30:]
        'inrain... 3000 more characters'
    """
    return _Brief(names).of(value, 0)


def whole(fields: Mapping[str, Any], names: frozenset[str]) -> Any:
    """Return fields as an exact text, without those to hide; or a map that says why not."""
    try:
        text = to_text(hide(fields, names))
    except Inexact as error:
        return {"not": str(error)}
    return text if len(text) <= _WHOLE else {"not": f"it has {len(text)} characters"}


class _Brief:
    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._texts = _TEXTS
        self._entries = _ALL

    def of(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        if type(value) is int and -(2**63) <= value < 2**64:
            return value
        if type(value) is float and value - value == 0:  # JSON has neither inf nor nan
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return self._map(value, depth) if depth < _DEPTH else "... a map"
        if isinstance(value, (list, tuple)):
            return self._list(value, depth) if depth < _DEPTH else "... a list"
        if isinstance(value, (int, float)):
            return self._text(repr(value) if isinstance(value, float) else "... a large number")
        if isinstance(value, (bytes, bytearray)):
            return f"... {len(value)} bytes"
        return f"... of type {type(value).__name__}"

    def _text(self, text: str, at_least: int = 0) -> str:
        kept = max(at_least, min(_TEXT, self._texts))
        self._texts -= min(len(text), kept)
        # A lone surrogate can't be written.
        shown = text[:kept].encode("utf-8", "replace").decode()
        return shown if len(text) <= kept else f"{shown}... {len(text) - kept} more characters"

    def _room(self, size: int) -> int:
        """Return the number of entries that may be shown."""
        room = max(0, min(size, _ENTRIES, self._entries))
        self._entries -= room
        return room

    def _map(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        room = self._room(len(value))
        shown: dict[str, Any] = {}
        for name, each in value.items():
            if len(shown) >= room:
                shown["..."] = f"{len(value) - room} more"
                break
            named = name if isinstance(name, str) else f"{type(name).__name__} {name!r}"
            is_hidden = str(name).lower() in self._names
            shown[self._text(named, _NAME)] = HIDDEN if is_hidden else self.of(each, depth + 1)
        return shown

    def _list(self, value: Any, depth: int) -> list[Any]:
        room = self._room(len(value))
        shown = [self.of(each, depth + 1) for each in value[:room]]
        return shown if len(value) == room else [*shown, f"... {len(value) - room} more"]


#: The looks at this process, by the path of their outlets. Guarded by the lock.
_looks: dict[str, _Look] = {}
_lock = threading.Lock()


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """
    Begin a look, or go on with it, and return the counts so far; nothing for another project.

    Args:
        question: ``look`` is a wish, ``outlet`` the path of the outlet.

    Raises:
        ValueError: It is not a wish.
    """
    wish, path = Wish.read(question["look"]), str(question.get("outlet"))
    if wish.project not in ("", project()):
        return {}
    with _lock:
        for other in list(_looks.values()):
            other.is_over()
        look = _looks.get(path)
        if look is None:
            look = _looks[path] = _Look(wish, path)
        look.renew()
        return look.told()


def open() -> Callable[[], None]:
    """
    Let this process be looked at: answer questions on a socket, if it has none yet. Return what
    ends that.

    A process with a host, and each process of a worker, can be looked at without this.
    """
    status.open_idle()
    return status.close


def _notice(router: observers.Observers) -> None:
    for look in list(_looks.values()):
        if not look.is_over():
            look.observe([router])


observers.noticing.append(_notice)


def _begin_again() -> None:
    global _lock
    _lock = threading.Lock()
    for look in list(_looks.values()):
        look.begin_again()


at_fork("looks", in_child=_begin_again)


# -- The side of who looks -------------------------------------------------------------------------


class Outlet:
    """
    The receiving end of a look on this machine.

    Args:
        wish: What it is to see. Its id is replaced.

    Attributes:
        wish: The wish.
        asked: Number of processes that have answered last.

    Raises:
        OSError: No socket can be made here.

    Example:
        >>> with Outlet(Wish("me", points=[["words", None]])) as outlet:  # doctest: +SKIP
        ...     outlet.ask(status.sockets(idle=True))
        ...     for seen in outlet.take():
        ...         print(seen.passed.fields)
    """

    def __init__(self, wish: Wish) -> None:
        self._pid = os.getpid()
        named = f"{self._pid}-{os.urandom(4).hex()}"
        folder = private(status.folder())
        _sweep(folder)
        self._path = folder / f"{named}.out"
        self.wish = wish._replace(id=f"{wish.id}-{named}")
        self.asked = 0
        self._counts: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._past = Totals()
        self._seen: deque[Seen] = deque(maxlen=10 * _WAITING)
        self._lock = threading.Lock()  # guards the counts
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(str(self._path))
            # A thread, as the kernel keeps only ten datagrams.
            atexit.register(self.close)
            self._thread = threading.Thread(target=self._hear, name="emit-outlet", daemon=True)
            self._thread.start()
        except BaseException:
            self._socket.close()
            self._path.unlink(missing_ok=True)
            raise

    def __enter__(self) -> Outlet:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the look: each process notices some seconds later. May be called repeatedly."""
        if self._pid != os.getpid():  # it is the parent's
            return
        atexit.unregister(self.close)
        if (own := _looks.get(str(self._path))) is not None:
            own.close()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(1.0)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _hear(self) -> None:
        """Hear what processes tell at their end."""
        with contextlib.suppress(OSError):
            while data := self._socket.recv(_DATAGRAM):
                with contextlib.suppress(TypeError, ValueError):
                    self._take_answer(json.loads(data))

    def ask(self, paths: Iterable[Path], *, here: bool = False) -> None:
        """
        Ask processes to go on telling, at most for a second in all. Those that don't answer in time
        are asked first the next time.

        Args:
            paths: Their sockets.
            here: Also look at this process.
        """
        question = {"look": self.wish, "outlet": str(self._path)}
        own = f"{os.getpid()}-"
        end, self.asked = time.monotonic() + _ROUND, 0
        if here:
            self.asked += self._take_answer(answer(question))
        for path in paths:
            if path.name.startswith(own):
                continue
            if time.monotonic() > end:
                break
            with contextlib.suppress(OSError, TypeError, ValueError):  # it is busy, or is ending
                told = status.ask(path, question)
                if told is not None:
                    self.asked += self._take_answer(told)

    def _take_answer(self, told: Mapping[str, Any]) -> bool:
        if told.get("look") != self.wish.id:
            return False  # its Emit is older
        for each in told["passed"]:
            self._seen.append(Seen(Passed(*json.loads(each)), told["pid"]))
        if told["counts"] is not None:
            with self._lock:
                self._counts[str(told["key"])] = time.monotonic(), told["counts"]
        return True

    def take(self) -> list[Seen]:
        """Return what has come since the last time."""
        return [self._seen.popleft() for _ in range(len(self._seen))]

    def totals(self) -> Totals:
        """Return the counts of all processes together, those that have ended included."""
        whole = Totals()
        with self._lock:
            for key, (at, told) in list(self._counts.items()):
                if time.monotonic() - at > _ENDED:
                    del self._counts[key]
                    _add(self._past, told)
                else:
                    _add(whole, told)
            _add(whole, self._past.told())
        return whole


def _sweep(folder: Path) -> None:
    """Remove the outlets of processes that were killed."""
    for path in folder.glob("*.out"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it:
            try:
                it.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


def _add(totals: Totals, told: Mapping[str, Any]) -> None:
    with contextlib.suppress(ValueError):  # its Emit is of another version
        totals.add(told)
