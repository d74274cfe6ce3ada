"""What a node's declaration says about its way through a queue. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from emit.node import is_handler
from emit.router.delivery import BATCH_BYTES, Policy
from emit.router.options import QUEUED, check_queued


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


def read_plan(name: str, handler: Any, options: dict[str, Any]) -> Plan:
    """
    Take from *options* what is about the queue.

    Raises:
        GraphError: A value that can't work.
    """
    taken = {key: options.pop(key) for key in QUEUED if key in options}
    check_queued(name, taken, foreign=is_handler(handler) and handler.foreign)
    limits = ("max_attempts", "max_retries", "max_deliveries")
    policy = {key: taken.pop(key) for key in limits if key in taken}
    if is_handler(handler):  # of a program its host knows them as well
        own = {"max_attempts": handler.max_attempts, "max_retries": handler.max_retries}
        policy = own | policy
    return Plan(**taken, policy=Policy(**policy))
