"""
The rules for messages that travel through a queue, whichever carries them. Pure: no I/O here,
and nothing of Celery or RQ.

1. A message's id is made of its parent's id, its destination and its number among the results
   that its parent had for that destination. A handler that runs again for the same message
   therefore sends messages of the same ids.
2. A message travels alone or in a batch. Each message of a batch has its own id and its own fate.
3. What became of an attempt decides what is done with the message: see :func:`judge`.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Literal, NamedTuple

from emit.errors import (
    DispatchError,
    InProgress,
    LedgerError,
    PoolClosed,
    PoolTimeout,
    RemoteError,
    StartError,
    StartTimeout,
    Unavailable,
)
from emit.node import Handler
from emit.router.options import QUEUED, check_queued

#: What the ids of messages are made in. It only has to differ from everybody else's.
NAMESPACE = uuid.UUID("6d6c5f0e-3a86-5b1a-9d53-0c8c0c0f6e17")

#: Bytes of a batch's messages: well within what every broker takes in one piece.
BATCH_BYTES = 256 * 1024

#: Seconds that a message waits at most when its handler asks for another attempt. A clock that is
#: wrong, or milliseconds, must not put it away for good, nor be more than a queue can count.
LONGEST_WAIT = 86400.0

#: The message was never with its handler, or another delivery of it is at work, or its results
#: could not be sent, or its end could not be written down: nobody's fault.
_NOT_TRIED = (
    *(StartError, StartTimeout, Unavailable, PoolTimeout, PoolClosed),
    *(InProgress, DispatchError, LedgerError),
)

Fate = Literal["retry", "later", "dead"]


def message_id(parent: str, destination: str, index: int) -> str:
    """
    The id of result number *index* that the handling of *parent* had for *destination*.

    The same as ``str(uuid.uuid5(NAMESPACE, f"{parent}/{destination}/{index}"))``, which takes
    five times as long (7.5 against 1.5 us), and one is made for every message.

    Example:
        >>> message_id("a", "words", 0)
        '4991bea7-355d-5a63-91d3-d0d1ab4d4009'
    """
    text = sha1(NAMESPACE.bytes + f"{parent}/{destination}/{index}".encode()).hexdigest()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


def batch_id(ids: Sequence[str]) -> str:
    """The id of the queue's own message that carries the messages *ids* together."""
    return message_id(ids[0], "", len(ids))


@dataclass(frozen=True)
class Policy:
    """
    How often a message is tried, and how far apart.

    Attributes:
        max_attempts: Attempts that failed, until a message is given up.
        max_retries: How often its handler may ask for another attempt (``Retry``) until a message
            is given up. Such attempts then count for nothing else. None: they count as all that
            fail.
        max_deliveries: Deliveries that nobody has seen the end of, because the worker died or
            was cut off, until a message is given up.
        backoff: Seconds before the second attempt; it doubles with each.
        backoff_max: The longest such wait, in seconds.
    """

    max_attempts: int = 3
    max_retries: int | None = None
    max_deliveries: int = 5
    backoff: float = 1.0
    backoff_max: float = 60.0

    def wait(self, times: int) -> float:
        """Seconds to wait after *times* failures: a random half of it spreads a herd."""
        longest = min(self.backoff_max, self.backoff * 2.0 ** min(times - 1, 63))
        return longest * (0.5 + random.random() / 2)


@dataclass(frozen=True)
class Plan:
    """
    Attributes:
        batch: Messages for the node that may travel together. 1, the default, is one task for
            each: a rate limit, a priority, an event of the queue's then means one message.
        batch_bytes: Bytes of a batch, about: the messages' own, as JSON.
        many: The handler takes a list of messages instead of one. They share one fate: where it
            fails, each is handled again in a list of its own.
        return_results: What the worker returns is what a call in the process would; otherwise
            it is the number of results, so that no message gets into logs and result stores.
        policy: How often it is tried.
    """

    batch: int = 1
    batch_bytes: int = BATCH_BYTES
    many: bool = False
    return_results: bool = False
    policy: Policy = field(default_factory=Policy)


def read_plan(name: str, seam: Handler, options: dict[str, Any]) -> Plan:
    """
    Take from *options* what is about the queue.

    Raises:
        GraphError: A value that can't work.
    """
    taken = {key: options.pop(key) for key in QUEUED if key in options}
    check_queued(name, taken, foreign=seam.foreign)
    limits = ("max_attempts", "max_retries", "max_deliveries")
    policy = {key: taken.pop(key) for key in limits if key in taken}
    # Of a program its host knows these as well.
    policy = {"max_attempts": seam.max_attempts, "max_retries": seam.max_retries} | policy
    return Plan(**taken, policy=Policy(**policy))


class Decision(NamedTuple):
    """The fate of a message whose attempt failed, and the seconds until it is carried out."""

    fate: Fate
    delay: float = 0.0


def asks_again(error: BaseException) -> bool:
    """True if the handler asks for another attempt."""
    return isinstance(error, RemoteError) and error.retry is True


def judge(
    error: BaseException,
    attempt: int,
    policy: Policy = Policy(),
    *,
    asked: int = 0,
    waits: int = 0,
    again: bool = False,
) -> Decision:
    """
    Decide what is done with a message whose attempt has ended in *error*.

    * It was never tried (its program can't be started, all processes are busy, the breaker is
      open), another worker is at it (``InProgress``), the queue refused its results, or Emit's own
      Redis is not there: later, and not charged.
    * The handler asks for another attempt, or *again*: retry, with the delay that it asks for
      (`LONGEST_WAIT` at most), as often as the policy allows.
    * All else is dead: the handler failed; the message can't be sent to it at all; or its
      process died, hung or wrote nonsense, for the host has tried ``max_attempts`` times then.

    Args:
        error: What it ended in.
        attempt: Which attempt that was, counted from 1.
        policy: The limits.
        asked: After how many attempts before this one the handler asked for another.
        waits: How often the message was put back before, for the backoff of *later*.
        again: Another attempt may help: it was cut off by a time limit, say.

    Example:
        >>> judge(KeyError("word"), attempt=1).fate
        'dead'
    """
    if isinstance(error, _NOT_TRIED):
        soonest = getattr(error, "retry_in", 0.0)
        return Decision("later", max(policy.wait(waits + 1), soonest))
    asks = asks_again(error)
    if policy.max_retries is None:
        allowed = (asks or again) and attempt < policy.max_attempts
    elif asks:
        allowed = asked < policy.max_retries
    else:
        allowed = again and attempt - asked < policy.max_attempts
    if not allowed:
        return Decision("dead")
    after = getattr(error, "after", None)
    return Decision("retry", policy.wait(attempt) if after is None else min(after, LONGEST_WAIT))
