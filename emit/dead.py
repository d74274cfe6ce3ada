"""
Dead letters in Redis: kept for a while, listed, shown, sent again, dropped.

Takes a client of redis-py; nothing here imports it. The keys, with the default prefix, of an
application's letters:

``emit:dead@<app>``
    a sorted set of their ids, by the time they were added

``emit:dead:@<app>:<id>``
    a hash of a letter, which expires

``emit:dead:@<app>:<id>:replay``
    there while it is being sent again

``emit:dead@``
    a set of the names of applications

Letters without an application have ``emit:dead`` and ``emit:dead:<id>``.

A hash has a ``version``. Fields that this version does not know are ignored; a higher number says
that they must not be. Whatever can't be read is a letter all the same: it is listed, shown as it is
stored, and dropped.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import asdict, replace
from typing import Any, NamedTuple
from urllib.parse import quote

from emit.errors import AmbiguousLetter, EncodeError, InProgress, LetterNotFound, UnreadableLetter
from emit.exact import Inexact, from_text, to_text
from emit.letter import Cause, DeadLetter
from emit.once import claim

__all__ = ["DeadLetters", "Entry", "Replayed"]

logger = logging.getLogger(__name__)

#: The form in which letters are stored, and the highest that is read.
_VERSION = 1

#: Letters that are read from Redis at a time.
_PAGE = 200

#: Failures in a row after which a replay of all is given up: it is not the letters, then.
_HOPELESS = 3

#: Characters of an id that stand for the whole, at least.
_SHORTEST = 4

#: One letter into its hash and the index; out of it what is too old or too many. In one step,
#: so that whatever is killed leaves no letter outside the index.
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

#: Take out the letter that was read, and not one of the same id that has come since. A damaged one
#: has no stamp by which to tell.
_REMOVE = """
if ARGV[2] ~= '' and redis.call('HGET', KEYS[2], 'stamp') ~= ARGV[2] then return 0 end
return redis.call('DEL', KEYS[2]) + redis.call('ZREM', KEYS[1], ARGV[1])
"""

#: Take out of the index what has expired.
_FORGET = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
"""

#: Call all that the others call, on the same keys, without a lasting effect.
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

    The *fault* says why it can't be read, and is empty if it can; then what could be read is here.
    The *app* is the application that it belongs to, empty for none.
    """

    id: str
    node: str
    origin: str
    at: float
    attempts: int
    cause: Cause | None
    fault: str = ""
    app: str = ""


class Replayed(NamedTuple):
    """
    What :meth:`DeadLetters.replay_all` did.

    The letters *sent* are gone. Those that *failed*, by id with the error, stay; and so do those
    that were *left*, by id with the name of their node, which is none of the application's.
    """

    sent: list[str]
    failed: dict[str, Exception]
    left: dict[str, str]


class _Store(NamedTuple):
    """Where an application's letters are: the key of their ids, and how their own keys begin."""

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
        prefix: What all keys begin with. For a Redis Cluster put it in braces, so that the
            keys are together.
        app: The application that the letters belong to. It sees its own, and those of none. Empty:
            only those of none. None, the default: it sees all, and what it adds belongs to none.
        nodes: The names of the application's nodes. A replay of all leaves the letters of others,
            and so does a drop of all with the letters of no application.
        ttl: Seconds that a letter is kept.
        max: Letters that are kept of each application. Then the oldest is dropped for each that is
            added, and the log says which.
        lease: Seconds that sending one letter again takes at most.

    Attributes:
        redis: The client.

    Every method raises what the client raises where Redis is not there.

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
        """The same application's letters in another Redis."""
        other = copy(self)
        other.redis = redis
        return other

    def add(self, letter: DeadLetter) -> str:
        """
        Keep a letter. One of the same id is replaced, as a message that is delivered twice may
        be given up twice.

        Returns:
            Its id: that of the letter, or a new one where it has none.

        Raises:
            EncodeError: Its message or route holds what no text stands for exactly. Nothing was
                stored, so the message must stay where it is.
            Exception: Redis is not there, or refuses. Again the message must stay where it is:
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

    def list(self, node: str | None = None, limit: int = 100) -> list[Entry]:
        """
        The letters, the latest first, without their messages.

        Args:
            node: Only those of this node.
            limit: How many at most.
        """
        found: list[Entry] = []
        if limit > 0:
            for _, entry, _ in self._entries(node):
                found.append(entry)
                if len(found) == limit:
                    break
        return found

    def find(self, start: str) -> str:
        """
        The id that begins with *start*: all of it, or four characters at least.

        Raises:
            LetterNotFound: There is none.
            AmbiguousLetter: There are several.
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
        One letter, whole.

        Raises:
            LetterNotFound: There is none of that id.
            UnreadableLetter: There is one, damaged or of a newer version of Emit. See :meth:`raw`.
        """
        return self._read(self._place(id), id)[0]

    def raw(self, id: str) -> dict[str, str]:
        """
        One letter as it is stored: text by text, for one that can't be read.

        Raises:
            LetterNotFound: There is none of that id.
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
            id: Which.
            send: Publishes the message, with its old id, and raises where it can't. It gets the
                letter.

        Returns:
            The letter.

        Raises:
            LetterNotFound: There is none of that id.
            UnreadableLetter: There is one, damaged or of a newer version of Emit.
            InProgress: Another process is sending it, or was killed at it.
            Exception: What *send* raised; or Redis is not there. The letter stays, and it may
                have been sent: a second time it has the same id.
        """
        store = self._place(id)
        with claim(self.redis, f"{store.key(id)}:replay", lease=self._lease):
            letter, stamp = self._read(store, id)
            send(letter)
            # A letter that has come back by now has another stamp, and stays.
            self._remove(store, id, stamp)
        logger.info('dead letter %s of "%s" sent again', id, letter.node)
        return letter

    def replay_all(self, send: Callable[[DeadLetter], Any], node: str | None = None) -> Replayed:
        """
        :meth:`replay` all letters that are there now, the oldest first.

        One that can't be sent or read stays, and the next is tried. After three in a row that
        could not be sent it is given up: the queue is at fault then.
        """
        done = Replayed([], {}, {})
        in_a_row = 0
        for _, entry, _ in reversed([*self._entries(node)]):
            if not entry.fault and self._nodes is not None and entry.node not in self._nodes:
                done.left[entry.id] = entry.node
                continue
            try:
                self.replay(entry.id, send)
            except (LetterNotFound, InProgress):  # another process has it
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
            LetterNotFound: There is none of that id.
        """
        if not self._remove(self._place(id), id, ""):
            raise LetterNotFound(id)

    def drop_all(self, node: str | None = None) -> int:
        """
        Delete all letters, or a node's, that are there now. Returns how many.

        Letters of no application are only deleted if they are of the nodes that this knows.
        """
        return sum(
            [
                self._remove(store, entry.id, stamp)
                for store, entry, stamp in self._entries(node)
                if store.app or self._nodes is None or entry.node in self._nodes
            ]
        )

    def __len__(self) -> int:
        """How many there are; some of them may have expired within the last moments."""
        return sum(int(self.redis.zcard(store.ids)) for store in self._stores())

    def try_out(self) -> None:
        """
        Do all that the other methods do to the same keys, without an effect.

        Raises:
            Exception: What the client raises, as for a user who may not do something of it.
        """
        store, id = self._own, f"try-{uuid.uuid4().hex}"
        self._call(_TRY, store, id, id, store.app)
        with claim(self.redis, f"{store.key(id)}:replay", lease=1.0):
            self.redis.hgetall(store.key(id))
            self.redis.type(store.key(id))
        self.redis.zrevrange(store.ids, 0, 0, withscores=True)
        self.redis.zcard(store.ids)
        self._heads((store, id))

    # -- where they are ----------------------------------------------------------------------

    def _store(self, app: str) -> _Store:
        name = quote(app, safe="")
        return _Store(app, f"{self._prefix}@{name}", f"{self._prefix}:@{name}:")

    def _stores(self) -> Iterable[_Store]:
        """All that this sees, its own first."""
        if self._sees_all:
            names = sorted(map(_text, self.redis.smembers(f"{self._prefix}@")))
            return (self._nobodys, *map(self._store, names))
        return dict.fromkeys((self._own, self._nobodys))

    def _place(self, id: str) -> _Store:
        """
        Where the letter *id* is. One's own hides one of no application.

        Raises:
            LetterNotFound: Nowhere.
            AmbiguousLetter: It is more than one application's.
        """
        found = [store for store in self._stores() if self.redis.exists(store.key(id))]
        if not found:
            raise LetterNotFound(id)
        if len(found) > 1 and self._sees_all:
            raise AmbiguousLetter(id, [store.key(id) for store in found])
        return found[0]

    def _index(self, store: _Store) -> Iterator[tuple[str, float]]:
        """(id, time of adding) of all in a store, the latest first."""
        for id, at in self.redis.zrevrange(store.ids, 0, -1, withscores=True):
            yield _text(id), at

    def _call(self, script: str, store: _Store, id: str, *arguments: Any) -> Any:
        keys = (store.ids, store.key(id), f"{self._prefix}@")
        return self.redis.eval(script, len(keys), *keys, *arguments)

    def _remove(self, store: _Store, id: str, stamp: str) -> bool:
        return bool(self._call(_REMOVE, store, id, id, stamp))

    # -- reading -----------------------------------------------------------------------------

    def _entries(self, node: str | None) -> Iterator[tuple[_Store, Entry, str]]:
        """All that are there now, the latest first: the store, the entry and the letter's stamp."""
        each = [(at, id, store) for store in self._stores() for id, at in self._index(store)]
        each.sort(key=lambda one: one[0], reverse=True)
        for start in range(0, len(each), _PAGE):
            page = [(store, id) for _, id, store in each[start : start + _PAGE]]
            for (store, id), values in zip(page, self._heads(*page), strict=True):
                entry, stamp = _entry(store, id, values)
                if entry.fault and self._call(_FORGET, store, id, id):
                    continue
                if node is None or entry.node == node:
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
        """A letter, and the stamp of its storing."""
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


#: The fields of a hash that an entry is made of.
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
    """An entry, with as much of it as can be read, and the stamp of the letter."""
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
        entry = Entry(id, node, origin, 0.0, 0, None, _reason(error), store.app)
        return entry, found.get("stamp", "")
    last = causes[-1] if causes else None
    return Entry(id, node, origin, at, attempts, last, "", store.app), stamp


def _is_damage(error: Exception) -> bool:
    """True if Redis has something else under the key of a letter, which is no fault of Redis's."""
    return str(error).startswith("WRONGTYPE")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    return str(error) or type(error).__name__


def _text(value: Any) -> str:
    """A client may decode what it gets (``decode_responses=True``) or not."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _shown(value: Any) -> str:
    """As :func:`_text`; of what is no UTF-8 as much as can be shown."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
