"""
Dead letters in Redis: kept for a while, listed, shown, sent again, dropped.

Takes a client of redis-py; nothing here imports it. The keys, with the default prefix:

``emit:dead``               a sorted set of ids, by the time they were added
``emit:dead:<id>``          a hash of the letter, which expires
``emit:dead:<id>:replay``   while it is being sent again
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from emit.errors import EncodeError, InProgress, LetterNotFound
from emit.exact import Inexact, from_text, to_text
from emit.letter import Cause, DeadLetter
from emit.once import claim

__all__ = ["DeadLetters", "Entry", "Replayed"]

logger = logging.getLogger(__name__)

#: Letters that are read from Redis at a time.
_PAGE = 200

#: Failures in a row after which a replay of all is given up: it is not the letters, then.
_HOPELESS = 3

#: One letter into its hash and the index; out of it what is too old or too many. In one step,
#: so that whatever is killed leaves no letter outside the index.
_ADD = """
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
redis.call('HSET', KEYS[2], unpack(ARGV, 5))
redis.call('PEXPIRE', KEYS[2], math.floor(ARGV[2] * 1000))
redis.call('ZADD', KEYS[1], at, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. at - ARGV[2])
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

#: Take out the letter that was read, and not one of the same id that has come since.
_REMOVE = """
if redis.call('HGET', KEYS[2], 'stamp') ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[2])
return redis.call('ZREM', KEYS[1], ARGV[1])
"""


#: Take out of the index what has expired.
_FORGET = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
"""


class Entry(NamedTuple):
    """A line of :meth:`DeadLetters.list`: a letter without its message."""

    id: str
    node: str
    origin: str
    at: float
    attempts: int
    cause: Cause | None


class Replayed(NamedTuple):
    """What :meth:`DeadLetters.replay_all` did: ids, and by id the failures, whose letters stay."""

    sent: list[str]
    failed: dict[str, Exception]


class DeadLetters:
    """
    The dead letters of any number of processes, in one Redis.

    Args:
        redis: A client of redis-py.
        prefix: What all keys begin with. For a Redis Cluster put it in braces, so that the
            keys are together.
        ttl: Seconds that a letter is kept.
        max: Letters that are kept. Then the oldest is dropped for each that is added, and the
            log says which.
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
        ttl: float = 30 * 86400.0,
        max: int = 10_000,
        lease: float = 60.0,
    ) -> None:
        self.redis = redis
        self._prefix = prefix
        self._ttl = ttl
        self._max = max
        self._lease = lease

    def __repr__(self) -> str:
        return f"<DeadLetters {self._prefix}>"

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
        fields = [word for pair in _to_hash(letter).items() for word in pair]
        keys = (self._prefix, self._key(id))
        numbers = (self._ttl, self._max)
        dropped = self.redis.eval(_ADD, 2, *keys, id, *numbers, self._key(""), *fields)
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
            for entry in self._entries(node):
                found.append(entry)
                if len(found) == limit:
                    break
        return found

    def show(self, id: str) -> DeadLetter:
        """
        One letter, whole.

        Raises:
            LetterNotFound: There is none of that id.
        """
        return self._read(id)[0]

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
            InProgress: Another process is sending it, or was killed at it.
            Exception: What *send* raised; or Redis is not there. The letter stays, and it may
                have been sent: a second time it has the same id.
        """
        with claim(self.redis, f"{self._key(id)}:replay", lease=self._lease):
            letter, stamp = self._read(id)
            send(letter)
            # A letter that has come back by now has another stamp, and stays.
            self._remove(id, stamp)
        logger.info('dead letter %s of "%s" sent again', id, letter.node)
        return letter

    def replay_all(self, send: Callable[[DeadLetter], Any], node: str | None = None) -> Replayed:
        """
        :meth:`replay` all letters that are there now, the oldest first.

        One that can't be sent stays, and the next is tried. After three of them in a row it is
        given up: the queue is at fault then.
        """
        done = Replayed([], {})
        in_a_row = 0
        for id in reversed([entry.id for entry in self._entries(node)]):
            try:
                self.replay(id, send)
            except (LetterNotFound, InProgress):  # another process has it
                continue
            except Exception as error:
                done.failed[id] = error
                in_a_row += 1
                if in_a_row == _HOPELESS:
                    break
            else:
                done.sent.append(id)
                in_a_row = 0
        return done

    def drop(self, id: str) -> None:
        """
        Delete a letter.

        Raises:
            LetterNotFound: There is none of that id.
        """
        if not self._drop(id):
            raise LetterNotFound(id)

    def drop_all(self, node: str | None = None) -> int:
        """Delete all letters, or a node's, that are there now. Returns how many."""
        return sum([self._drop(entry.id) for entry in self._entries(node)])

    def __len__(self) -> int:
        """How many there are; some of them may have expired within the last moments."""
        return int(self.redis.zcard(self._prefix))

    def _drop(self, id: str) -> bool:
        stamp = self.redis.hget(self._key(id), "stamp")
        return stamp is not None and self._remove(id, _text(stamp))

    def _remove(self, id: str, stamp: str) -> bool:
        return bool(self.redis.eval(_REMOVE, 2, self._prefix, self._key(id), id, stamp))

    def _entries(self, node: str | None) -> Iterator[Entry]:
        """All that are there now, the latest first."""
        ids = [_text(id) for id in self.redis.zrevrange(self._prefix, 0, -1)]
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            for id, values in zip(page, self._heads(page), strict=True):
                if values[0] is None:
                    self.redis.eval(_FORGET, 2, self._prefix, self._key(id), id)
                elif node is None or _text(values[0]) == node:
                    yield _entry(id, values)

    def _heads(self, ids: Iterable[str]) -> Iterable[Any]:
        pipeline = self.redis.pipeline(transaction=False)
        for id in ids:
            pipeline.hmget(self._key(id), *_HEAD)
        values: Iterable[Any] = pipeline.execute()
        return values

    def _read(self, id: str) -> tuple[DeadLetter, str]:
        """A letter, and the stamp of its storing."""
        found = {_text(name): _text(value) for name, value in self._hash(id).items()}
        if not found:
            raise LetterNotFound(id)
        return replace(_from_hash(found), id=id), found["stamp"]

    def _hash(self, id: str) -> Mapping[Any, Any]:
        found: Mapping[Any, Any] = self.redis.hgetall(self._key(id))
        return found

    def _key(self, id: str) -> str:
        return f"{self._prefix}:{id}"


#: The fields of a hash that an entry is made of.
_HEAD = ("node", "origin", "at", "attempts", "causes")


def _to_hash(letter: DeadLetter) -> dict[str, str]:
    causes = [asdict(cause) for cause in letter.causes]
    last = letter.causes[-1].at if letter.causes else time.time()
    attempts = len(causes) if letter.attempts is None else letter.attempts
    return {
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
    return DeadLetter(
        node=found["node"],
        message=from_text(found["message"]),
        causes=tuple(Cause(**cause) for cause in json.loads(found["causes"])),
        origin=found["origin"],
        attempts=int(found["attempts"]),
        at=float(found["at"]),
        route=from_text(found["route"]),
    )


def _entry(id: str, values: Iterable[Any]) -> Entry:
    node, origin, at, attempts, causes = map(_text, values)
    last = json.loads(causes)[-1:]
    return Entry(id, node, origin, float(at), int(attempts), Cause(**last[0]) if last else None)


def _text(value: Any) -> str:
    """A client may decode what it gets (``decode_responses=True``) or not."""
    return value.decode() if isinstance(value, bytes) else str(value)
