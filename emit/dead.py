"""
Dead letters in Redis: kept for a while, listed, shown, sent again, dropped.

This module takes a client of redis-py and does not import it. An application's letters have these
keys, with the default prefix:

``emit:dead@<app>``
    a sorted set of their ids, by the time they were added

``emit:dead:@<app>:<id>``
    a hash of a letter, which expires

``emit:dead:@<app>:<id>:replay``
    exists while the letter is being sent again

``emit:dead@``
    a set of the names of applications

Letters without an application have ``emit:dead`` and ``emit:dead:<id>``.

A hash has a ``version``. Unknown fields of a known version are ignored. A higher version says that
a reader must not ignore them. A letter that can't be read is still a letter: it is listed, shown
as it is stored, and dropped.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import quote

from emit.errors import AmbiguousLetter, EncodeError, InProgress, LetterNotFound, UnreadableLetter
from emit.exact import Inexact, from_text, to_text
from emit.letter import Cause, DeadLetter
from emit.observe.logs import get_logger
from emit.once import claim
from emit.text import one_line

__all__ = ["DeadLetters", "Entry", "Group", "Replayed"]

logger = get_logger(__name__)

#: The form in which letters are stored, and the highest version that can be read.
_VERSION = 1

#: Letters that are read from Redis at a time.
_PAGE = 200

#: Failed sends in a row after which a replay of all letters stops: the queue is at fault then.
_HOPELESS = 3

#: The smallest number of characters of an id that may stand for the whole id.
_SHORTEST = 4

#: Store a letter in its hash and in the index, and drop letters that are too old or too many. One
#: step, so that a kill at any point leaves no letter outside the index.
_ADD = """
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
redis.call('HSET', KEYS[2], unpack(ARGV, 6))
redis.call('PEXPIRE', KEYS[2], math.floor(ARGV[2] * 1000))
redis.call('ZADD', KEYS[1], at, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. at - ARGV[2])
if ARGV[5] ~= '' then redis.call('SADD', KEYS[3], ARGV[5]) end
local dropped, over = {}, redis.call('ZCARD', KEYS[1]) - ARGV[3]
if over > 0 then
  local popped = redis.call('ZPOPMIN', KEYS[1], over)
  for i = 1, #popped, 2 do
    redis.call('DEL', ARGV[4] .. popped[i])
    dropped[#dropped + 1] = popped[i]
  end
end
return dropped
"""

#: Remove the letter that was read, but not a newer letter with the same id. A damaged letter has no
#: stamp to compare.
_REMOVE = """
if ARGV[2] ~= '' and redis.call('HGET', KEYS[2], 'stamp') ~= ARGV[2] then return 0 end
return redis.call('DEL', KEYS[2]) + redis.call('ZREM', KEYS[1], ARGV[1])
"""

#: Remove expired letters from the index.
_FORGET = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
"""

#: Make every call that the other scripts make, on the same keys, without a lasting effect.
_TRY = """
redis.call('TIME')
redis.call('HSET', KEYS[2], 'stamp', '')
redis.call('HGET', KEYS[2], 'stamp')
redis.call('EXISTS', KEYS[2])
redis.call('PEXPIRE', KEYS[2], 1000)
redis.call('DEL', KEYS[2])
redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(-inf')
redis.call('ZCARD', KEYS[1])
redis.call('ZPOPMIN', KEYS[1], 0)
if ARGV[2] ~= '' then redis.call('SADD', KEYS[3], ARGV[2]) end
return 1
"""


class Entry(NamedTuple):
    """
    A line of :meth:`DeadLetters.list`: a letter without its message.

    *fault* says why the letter can't be read; it is empty for a readable letter. The other fields
    of an unreadable letter hold what could be read. *app* is the letter's application, empty for
    none. *group* is the id of the :class:`Group` that it belongs to.
    """

    id: str
    node: str
    origin: str
    at: float
    attempts: int
    cause: Cause | None
    fault: str = ""
    app: str = ""
    group: str = ""


class Group(NamedTuple):
    """
    The letters of one node that have the same last cause, for :meth:`DeadLetters.groups`.

    Attributes:
        id: Eight characters. It stays the same as letters come and go, also in other processes.
        node: The node of all of them.
        app: Their application; empty for none.
        type: The class of the last cause; empty if a letter has none, or can't be read.
        text: Its text, one line, with ``#`` for each number; for letters that can't be read, the
            fault.
        size: Number of letters.
        first: The time when the first of them was given up, in seconds since the epoch.
        last: The time when the last of them was given up.
        latest: The id of that letter.
    """

    id: str
    node: str
    app: str
    type: str
    text: str
    size: int
    first: float
    last: float
    latest: str


class Replayed(NamedTuple):
    """
    The outcome of :meth:`DeadLetters.replay_all`.

    The letters *sent* are gone. The letters that *failed* stay; they are listed by id with the
    error. The letters that were *left* also stay; they are listed by id with the name of their
    node, which the application does not have.
    """

    sent: list[str]
    failed: dict[str, Exception]
    left: dict[str, str]


class _Store(NamedTuple):
    """
    An application's place in Redis: the key of its letters' ids, and the beginning of their keys.
    """

    app: str
    ids: str
    prefix: str

    def key(self, id: str) -> str:
        return self.prefix + id


class DeadLetters:
    """
    The dead letters of any number of processes, in one Redis.

    Args:
        redis: A client of redis-py.
        prefix: The beginning of all keys. For a Redis Cluster put it in braces, so that the
            keys are together.
        app: The application that the letters belong to. It sees its own letters and the letters
            without an application. Empty: it sees only the letters without an application. None,
            the default: it sees all letters, and adds letters without an application.
        nodes: The names of the application's nodes. A replay of all letters leaves the letters of
            other nodes. A drop of all leaves those of them that have no application.
        ttl: Seconds that a letter is kept.
        max: Letters kept for each application. Beyond that, each new letter drops the oldest,
            and the log says which.
        lease: Seconds that sending one letter again may take.

    Attributes:
        redis: The client.

    Every method raises the client's own exception if Redis can't be reached.

    Example:
        >>> letters = DeadLetters(client)
        >>> id = letters.add(letter)
        >>> letters.show(id).message
        {'n': 13}
    """

    def __init__(
        self,
        redis: Any,
        *,
        prefix: str = "emit:dead",
        app: str | None = None,
        nodes: Container[str] | None = None,
        ttl: float = 30 * 86400.0,
        max: int = 10_000,
        lease: float = 60.0,
    ) -> None:
        self.redis = redis
        self._prefix = prefix
        self._nobodys = _Store("", prefix, f"{prefix}:")
        self._own = self._store(app) if app else self._nobodys
        self._sees_all = app is None
        self._nodes = nodes
        self._ttl = ttl
        self._max = max
        self._lease = lease

    def __repr__(self) -> str:
        return f"<DeadLetters {self._own.ids}>"

    def at(self, redis: Any) -> DeadLetters:
        """Return the same application's letters in another Redis."""
        other = copy(self)
        other.redis = redis
        return other

    def add(self, letter: DeadLetter) -> str:
        """
        Keep a letter. It replaces a letter with the same id, because a message that is delivered
        twice may be given up twice.

        Returns:
            The letter's id, or a new id if it has none.

        Raises:
            EncodeError: Its message or route holds a value that no text represents exactly. Nothing
                was stored, so the message must stay where it is.
            Exception: Redis can't be reached, or refuses. Again the message must stay where it is:
                do not acknowledge it.
        """
        id = letter.id or uuid.uuid4().hex
        store = self._own
        fields = [word for pair in _to_hash(letter).items() for word in pair]
        limits = (self._ttl, self._max)
        dropped = self._call(_ADD, store, id, id, *limits, store.prefix, store.app, *fields)
        if dropped:
            ids = ", ".join(map(_text, dropped))
            logger.warning("dead letters over max = %d, the oldest dropped: %s", self._max, ids)
        logger.info('dead letter %s of "%s" stored', id, letter.node)
        return id

    def list(
        self,
        node: str | None = None,
        limit: int = 100,
        *,
        since: float | None = None,
        group: str | None = None,
    ) -> list[Entry]:
        """
        Return the letters without their messages, the latest first.

        Args:
            node: Only the letters of this node.
            limit: The largest number of letters to return.
            since: Only the letters that were stored at this time or later, in seconds since the
                epoch.
            group: Only the letters of the group with this id.
        """
        found: list[Entry] = []
        if limit > 0:
            for _, entry, _ in self._entries(node, since, group):
                found.append(entry)
                if len(found) == limit:
                    break
        return found

    def groups(self, node: str | None = None, *, since: float | None = None) -> Sequence[Group]:
        """
        Return the letters by node and last cause, the largest group first.

        Two causes are the same if their class and their text are, numbers apart: a port, an
        address or the number of a row does not make another cause.

        Args:
            node: Only the letters of this node.
            since: Only the letters that were stored at this time or later, in seconds since the
                epoch.
        """
        found: dict[tuple[str, str], Group] = {}
        for store, entry, _ in self._entries(node, since):
            key = (store.app, entry.group)
            if (known := found.get(key)) is not None:
                first, last = min(known.first, entry.at), max(known.last, entry.at)
                found[key] = known._replace(size=known.size + 1, first=first, last=last)
                continue
            kind = entry.cause.type if entry.cause else ""
            found[key] = Group(
                entry.group,
                entry.node,
                entry.app,
                kind,
                _pattern(entry.cause.text if entry.cause else entry.fault),
                size=1,
                first=entry.at,
                last=entry.at,
                latest=entry.id,
            )
        return sorted(found.values(), key=lambda group: -group.size)

    def find(self, start: str) -> str:
        """
        Return the id that begins with *start*: the whole id, or at least four characters of it.

        Raises:
            LetterNotFound: No id begins with it.
            AmbiguousLetter: Several do.
        """
        ids = {id for store in self._stores() for id, _ in self._index(store)}
        if start in ids:
            return start
        found = sorted(id for id in ids if id.startswith(start) and len(start) >= _SHORTEST)
        if len(found) > 1:
            raise AmbiguousLetter(start, found)
        if not found:
            raise LetterNotFound(start)
        return found[0]

    def show(self, id: str) -> DeadLetter:
        """
        Return one whole letter.

        Raises:
            LetterNotFound: No letter has this id.
            UnreadableLetter: It is damaged, or from a newer version of Emit. See :meth:`raw`.
        """
        return self._read(self._place(id), id)[0]

    def raw(self, id: str) -> dict[str, str]:
        """
        Return one letter as it is stored, text by text, for a letter that can't be read.

        Raises:
            LetterNotFound: No letter has this id.
        """
        key = self._place(id).key(id)
        kind = _text(self.redis.type(key))
        if kind != "hash":
            return {"type": kind}
        return {_shown(name): _shown(value) for name, value in self.redis.hgetall(key).items()}

    def replay(self, id: str, send: Callable[[DeadLetter], Any]) -> DeadLetter:
        """
        Send a letter's message again, and then drop the letter.

        Args:
            id: The letter's id.
            send: Gets the letter and publishes its message with its old id. Raises if it can't.

        Returns:
            The letter.

        Raises:
            LetterNotFound: No letter has this id.
            UnreadableLetter: It is damaged, or from a newer version of Emit.
            InProgress: Another process is sending it, or was killed while it did.
            Exception: *send* raised it, or Redis can't be reached. The letter stays. It may have
                been sent; sent a second time, it has the same id.
        """
        store = self._place(id)
        with claim(self.redis, f"{store.key(id)}:replay", lease=self._lease):
            letter, stamp = self._read(store, id)
            send(letter)
            # A letter that has come back in the meantime has another stamp, and stays.
            self._remove(store, id, stamp)
        logger.info('dead letter %s of "%s" sent again', id, letter.node)
        return letter

    def replay_all(
        self,
        send: Callable[[DeadLetter], Any],
        node: str | None = None,
        *,
        since: float | None = None,
        group: str | None = None,
    ) -> Replayed:
        """
        :meth:`replay` all letters that are stored now, the oldest first. *node*, *since* and
        *group* choose some of them, as for :meth:`list`.

        A letter that can't be sent or read stays, and the next one is tried. Three failed sends in
        a row end the replay, because the queue is at fault then.
        """
        done = Replayed([], {}, {})
        in_a_row = 0
        for _, entry, _ in reversed([*self._entries(node, since, group)]):
            if not entry.fault and self._nodes is not None and entry.node not in self._nodes:
                done.left[entry.id] = entry.node
                continue
            try:
                self.replay(entry.id, send)
            except (LetterNotFound, InProgress):  # another process sends or has sent it
                continue
            except (UnreadableLetter, AmbiguousLetter) as error:
                done.failed[entry.id] = error
            except Exception as error:
                done.failed[entry.id] = error
                in_a_row += 1
                if in_a_row == _HOPELESS:
                    break
            else:
                done.sent.append(entry.id)
                in_a_row = 0
        return done

    def drop(self, id: str) -> None:
        """
        Delete a letter, readable or not.

        Raises:
            LetterNotFound: No letter has this id.
        """
        if not self._remove(self._place(id), id, ""):
            raise LetterNotFound(id)

    def drop_all(
        self, node: str | None = None, *, since: float | None = None, group: str | None = None
    ) -> int:
        """
        Delete all letters that are stored now. Return how many. *node*, *since* and *group* choose
        some of them, as for :meth:`list`.

        A letter without an application is deleted only if its node is one of the known *nodes*.
        """
        return sum(
            [
                self._remove(store, entry.id, stamp)
                for store, entry, stamp in self._entries(node, since, group)
                if store.app or self._nodes is None or entry.node in self._nodes
            ]
        )

    def __len__(self) -> int:
        """Return the number of letters. Some of them may have expired within the last moments."""
        return sum(int(self.redis.zcard(store.ids)) for store in self._stores())

    def try_out(self) -> None:
        """
        Do everything that the other methods do to the same keys, without an effect.

        Raises:
            Exception: The client's own exception, such as for a user without the permission.
        """
        store, id = self._own, f"try-{uuid.uuid4().hex}"
        self._call(_TRY, store, id, id, store.app)
        with claim(self.redis, f"{store.key(id)}:replay", lease=1.0):
            self.redis.hgetall(store.key(id))
            self.redis.type(store.key(id))
        self.redis.zrevrangebyscore(store.ids, "+inf", "-inf", start=0, num=1, withscores=True)
        self.redis.zcard(store.ids)
        self._heads((store, id))

    # -- places in Redis ---------------------------------------------------------------------

    def _store(self, app: str) -> _Store:
        name = quote(app, safe="")
        return _Store(app, f"{self._prefix}@{name}", f"{self._prefix}:@{name}:")

    def _stores(self) -> Iterable[_Store]:
        """Return all visible stores, the application's own first."""
        if self._sees_all:
            names = sorted(map(_text, self.redis.smembers(f"{self._prefix}@")))
            return (self._nobodys, *map(self._store, names))
        return dict.fromkeys((self._own, self._nobodys))

    def _place(self, id: str) -> _Store:
        """
        Return the store of the letter *id*. The application's own letter hides one of no
        application.

        Raises:
            LetterNotFound: No store has it.
            AmbiguousLetter: Several applications have it.
        """
        found = [store for store in self._stores() if self.redis.exists(store.key(id))]
        if not found:
            raise LetterNotFound(id)
        if len(found) > 1 and self._sees_all:
            raise AmbiguousLetter(id, [store.key(id) for store in found])
        return found[0]

    def _index(self, store: _Store, least: str | float = "-inf") -> Iterator[tuple[str, float]]:
        """Yield (id, time of adding) of the letters in a store from a time on, the latest first."""
        for id, at in self.redis.zrevrangebyscore(store.ids, "+inf", least, withscores=True):
            yield _text(id), at

    def _call(self, script: str, store: _Store, id: str, *arguments: Any) -> Any:
        keys = (store.ids, store.key(id), f"{self._prefix}@")
        return self.redis.eval(script, len(keys), *keys, *arguments)

    def _remove(self, store: _Store, id: str, stamp: str) -> bool:
        return bool(self._call(_REMOVE, store, id, id, stamp))

    # -- reading -----------------------------------------------------------------------------

    def _entries(
        self, node: str | None, since: float | None = None, group: str | None = None
    ) -> Iterator[tuple[_Store, Entry, str]]:
        """
        Yield the store, the entry and the stamp of each letter that is stored now, the latest
        first.
        """
        least = "-inf" if since is None else since
        each = [(at, id, store) for store in self._stores() for id, at in self._index(store, least)]
        each.sort(key=lambda one: one[0], reverse=True)
        for start in range(0, len(each), _PAGE):
            page = [(store, id) for _, id, store in each[start : start + _PAGE]]
            for (store, id), values in zip(page, self._heads(*page), strict=True):
                entry, stamp = _entry(store, id, values)
                if entry.fault and self._call(_FORGET, store, id, id):
                    continue
                if node in (None, entry.node) and group in (None, entry.group):
                    yield store, entry, stamp

    def _heads(self, *letters: tuple[_Store, str]) -> Iterable[Any]:
        pipeline = self.redis.pipeline(transaction=False)
        for store, id in letters:
            pipeline.hmget(store.key(id), *_HEAD)
        values: list[Any] = pipeline.execute(raise_on_error=False)
        for error in values:
            if isinstance(error, Exception) and not _is_damage(error):
                raise error
        return values

    def _read(self, store: _Store, id: str) -> tuple[DeadLetter, str]:
        """Return a letter and its stamp."""
        try:
            found = self.redis.hgetall(store.key(id))
        except Exception as error:
            if _is_damage(error):
                raise UnreadableLetter(id, _reason(error)) from error
            raise
        if not found:
            raise LetterNotFound(id)
        try:
            told = {_text(name): _text(value) for name, value in found.items()}
            return replace(_from_hash(told), id=id), told["stamp"]
        except Exception as error:
            raise UnreadableLetter(id, _reason(error)) from error


#: The fields of a hash that make an entry.
_HEAD = ("node", "origin", "at", "attempts", "causes", "version", "stamp")


def _to_hash(letter: DeadLetter) -> dict[str, str]:
    causes = [asdict(cause) for cause in letter.causes]
    last = letter.causes[-1].at if letter.causes else time.time()
    attempts = len(causes) if letter.attempts is None else letter.attempts
    return {
        "version": str(_VERSION),
        "node": letter.node,
        "origin": letter.origin or str(letter.message.get("_origin", "")),
        "message": _exactly(letter, "message", dict(letter.message)),
        "causes": json.dumps(causes),
        "attempts": str(attempts),
        "at": repr(last if letter.at is None else letter.at),
        "route": _exactly(letter, "route", dict(letter.route)),
        "stamp": uuid.uuid4().hex,
    }


def _exactly(letter: DeadLetter, name: str, value: dict[str, Any]) -> str:
    try:
        return to_text(value)
    except Inexact as error:
        reason = f"it can't be kept as a dead letter, and nothing was stored: {error}"
        raise EncodeError(node=letter.node, path=f"the {name}", reason=reason) from error


def _from_hash(found: Mapping[str, str]) -> DeadLetter:
    _check_version(found.get("version"))
    return DeadLetter(
        node=found["node"],
        message=_map(found["message"]),
        causes=_causes(found["causes"]),
        origin=found["origin"],
        attempts=int(found["attempts"]),
        at=float(found["at"]),
        route=_map(found["route"]),
    )


def _check_version(version: str | None) -> None:
    if version is not None and int(version) > _VERSION:
        raise ValueError(
            f"a newer version of Emit stored it, in form {version}; this one reads form {_VERSION}"
        )


def _map(text: str) -> dict[str, Any]:
    value = from_text(text)
    if type(value) is not dict:
        raise ValueError(f"a map was stored here, and this is of type {type(value).__name__}")
    return value


def _causes(text: str) -> tuple[Cause, ...]:
    return tuple(map(Cause.read, json.loads(text)))


def _entry(store: _Store, id: str, values: Any) -> tuple[Entry, str]:
    """Return an entry, with as much as can be read, and the letter's stamp."""
    found: dict[str, str] = {}
    try:
        if isinstance(values, Exception):
            raise values
        kept = zip(_HEAD, values, strict=True)
        found = {name: _text(value) for name, value in kept if value is not None}
        _check_version(found.get("version"))
        causes = _causes(found["causes"])
        at, attempts = float(found["at"]), int(found["attempts"])
        node, origin, stamp = found["node"], found["origin"], found["stamp"]
    except Exception as error:
        node, origin = found.get("node", ""), found.get("origin", "")
        fault = _reason(error)
        group = _group(node, "", fault)
        entry = Entry(id, node, origin, 0.0, 0, None, fault, store.app, group)
        return entry, found.get("stamp", "")
    last = causes[-1] if causes else None
    group = _group(node, last.type, last.text) if last else _group(node, "", "")
    return Entry(id, node, origin, at, attempts, last, "", store.app, group), stamp


#: The parts of a text that differ from message to message: numbers, addresses, ids in hexadecimal.
_VARIABLE = re.compile(r"\b(?:0x[0-9a-fA-F]+|[0-9a-fA-F-]*\d[0-9a-fA-F-]{7,}|\d[\d._]*)\b")


def _pattern(text: str) -> str:
    """
    Return a text in one line, with ``#`` for each part that may differ from message to message.

    Example:
        >>> _pattern("row 17: no answer from 10.0.0.3:5432 (a.py:12 in f)")
        'row #: no answer from #:# (a.py:# in f)'
    """
    return _VARIABLE.sub("#", one_line(text))


def _group(node: str, kind: str, text: str) -> str:
    return sha256("\0".join((node, kind, _pattern(text))).encode()).hexdigest()[:8]


def _is_damage(error: Exception) -> bool:
    """True if the letter's key holds something else. Redis itself is not at fault then."""
    return str(error).startswith("WRONGTYPE")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    return str(error) or type(error).__name__


def _text(value: Any) -> str:
    """
    Return a text from a client that decodes its answers (``decode_responses=True``) or doesn't.
    """
    return value.decode() if isinstance(value, bytes) else str(value)


def _shown(value: Any) -> str:
    """Do as :func:`_text`, and escape bytes that are not UTF-8."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
