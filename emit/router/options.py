"""What ``router.node`` says of an option that it does not take. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable

from emit.errors import GraphError
from emit.nearest import nearest

#: The options of ``router.node`` that every router takes.
OPTIONS = ("name", "stream", "pass_through")

#: The options of ``router.node`` that every router of a queue takes.
QUEUED = ("batch", "batch_bytes", "many", "return_results", "max_attempts", "max_deliveries")

#: Options that some routers take, and which: for who gives one to another.
_OWNERS = {
    **dict.fromkeys(QUEUED, "CeleryRouter and RQRouter"),
    **dict.fromkeys(("queue", "connection", "result_ttl"), "RQRouter"),
    "celery_task": "CeleryRouter",
}


def unknown_options(node: str, router: str, given: Iterable[str], known: Iterable[str]) -> str:
    """
    Which options are not taken, each with what may have been meant, and which are.

    Example:
        >>> unknown_options("words", "Router", ["nme"], ["name", "stream"])
        '"words": Router.node takes no option \\'nme\\' (nearest: name); it takes: name, stream'
    """
    taken = list(dict.fromkeys(known))  # a program's max_attempts is the queue's, too
    wrong = ", ".join(f"{option!r}{_meant(option, taken)}" for option in given)
    return f'"{node}": {router}.node takes no option {wrong}; it takes: {", ".join(taken)}'


def _meant(option: str, taken: list[str]) -> str:
    owner = _OWNERS.get(option)
    return nearest(option, taken) if owner is None else f" (it is of {owner})"


def check_switch(node: str, option: str, value: object) -> None:
    """
    Raises:
        GraphError: It is neither True nor False.
    """
    if not isinstance(value, bool):
        raise GraphError(f'"{node}": {option} must be True or False, not {value!r}')
