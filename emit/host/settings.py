"""
The options of a foreign node: one frozen value, checked once. No I/O here.

docs/knobs.md lists them with their reasons; a test holds the page against this file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, TypeAlias

from emit.errors import GraphError
from emit.host.system.program import Limits
from emit.host.wire.frames import MAX_FRAME

Mode: TypeAlias = Literal["auto", "oneshot", "persistent", "lines"]
Codec: TypeAlias = Literal["json", "msgpack"] | None

MODES = ("auto", "oneshot", "persistent", "lines")
CODECS = (None, "json", "msgpack")

_LIMITS = Limits()


@dataclass(frozen=True)
class Settings:
    """
    The way a node's program is run. Times are seconds, sizes bytes; None switches a limit off.

    Attributes:
        mode: ``auto``: ask the program at its first message; ``oneshot``: a process for each
            message; ``persistent``: a pooled process that has an SDK; ``lines``: a pooled filter
            that writes one line for each line that it reads.
        codec: ``json``, ``msgpack``, or None: JSON for one-shot programs, and for others
            msgpack if they support it.
        timeout: For one message, from its sending (or from the end of the one before it) to
            its answer. The wait for a free process counts, too.
        start_timeout: From the start of a program until it is ready.
        acquire_timeout: For a process to become free; None: *timeout*.
        size: Most processes. Default: as many as the machine has cores, but at most 4.
        min_idle: Processes kept ready even if no message comes.
        window: Messages written ahead to one process by ``call_many``.
        max_attempts: Tries of one message whose process died, hung or broke the protocol.
        max_retries: Further tries of a message that its handler may ask for (``Retry``). They
            then don't count as *max_attempts*; None: all tries count together.
        max_calls: Messages after which a process is replaced.
        max_age: Seconds after which a process is replaced.
        max_rss: Bytes of memory of a process and its children at which it is replaced.
        idle_timeout: Seconds without a message after which a process is stopped.
        jitter: Share by which *max_calls* and *max_age* differ between processes, so that
            they are not all replaced at once.
        max_frame: Bytes of one message or answer.
        max_results: Results of one message, unless it is streamed.
        max_result_bytes: Bytes of all results of one message, as the program writes them, unless
            it is streamed. Also the bytes that ``call_many`` keeps while the results of an earlier
            message are missing.
        cancel_grace: Seconds for a process to end a call that was given up: its caller is gone, or
            its *timeout* has passed. A process that does is kept. 0: every such process is killed
            at once, as is one that can't be asked.
        stop_grace: Seconds for a process to end by itself after the end of its input.
        term_grace: Seconds to end after SIGTERM; then it is killed.
        backoff: Seconds before the next start after a failed one; doubles each time.
        backoff_max: The longest wait between starts.
        breaker_failures: Failed starts within *breaker_window* that open the breaker.
        breaker_window: Seconds.
        breaker_open: Seconds for which every call fails at once, before one more start.
        limits: Resource limits of a persistent process.
    """

    mode: Mode = "auto"
    codec: Codec = None
    timeout: float = 30.0
    start_timeout: float = 30.0
    acquire_timeout: float | None = None
    size: int = min(4, os.cpu_count() or 1)
    min_idle: int = 0
    window: int = 256
    max_attempts: int = 3
    max_retries: int | None = None
    max_calls: int | None = None
    max_age: float | None = None
    max_rss: int | None = None
    idle_timeout: float | None = None
    jitter: float = 0.2
    max_frame: int = MAX_FRAME
    max_results: int = 1_000_000
    max_result_bytes: int = 2**27
    cancel_grace: float = 0.5
    stop_grace: float = 2.0
    term_grace: float = 3.0
    backoff: float = 0.1
    backoff_max: float = 30.0
    breaker_failures: int = 5
    breaker_window: float = 10.0
    breaker_open: float = 60.0
    limits: Limits = _LIMITS


def check(node: str, settings: Settings) -> None:
    """
    Refuse wrong settings when the node is declared, and not when its first message is lost.

    Raises:
        GraphError: The text names the setting, its value and the allowed values.
    """
    for name, low, high in _RANGES:
        value = getattr(settings, name)
        if value is None and name in _OPTIONAL:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise GraphError(f'"{node}": {name} must be a number, not {value!r}')
        if not low <= value <= high or (name in _WHOLE and value % 1):
            raise GraphError(f'"{node}": {name} = {value!r} must be {_range(name, low, high)}')
    _check_choice(node, "mode", settings.mode, MODES)
    _check_choice(node, "codec", settings.codec, CODECS)
    _check_limits(node, settings.limits)
    _check_order(node, settings)


_INFINITE = float("inf")

#: A millisecond. No process answers in less, so a smaller value is probably in the wrong unit.
_LEAST = 0.001

_RANGES: tuple[tuple[str, float, float], ...] = (
    *((name, _LEAST, 86400.0) for name in ("timeout", "start_timeout", "acquire_timeout")),
    ("size", 1, 1000),
    ("min_idle", 0, 1000),
    ("window", 1, 65536),
    ("max_attempts", 1, 100),
    ("max_retries", 0, _INFINITE),
    ("max_calls", 1, _INFINITE),
    ("max_age", _LEAST, _INFINITE),
    ("max_rss", 2**20, _INFINITE),
    ("idle_timeout", _LEAST, _INFINITE),
    ("jitter", 0, 1),
    ("max_frame", 1024, MAX_FRAME),  # less can't carry the first frame
    ("max_results", 1, _INFINITE),
    ("max_result_bytes", 1024, _INFINITE),
    *((name, 0, 3600.0) for name in ("cancel_grace", "stop_grace", "term_grace")),
    *((name, 0, 3600.0) for name in ("backoff", "backoff_max")),
    ("breaker_failures", 1, 1000),
    *((name, _LEAST, 86400.0) for name in ("breaker_window", "breaker_open")),
)
_OPTIONAL = {"acquire_timeout", "max_retries", "max_calls", "max_age", "max_rss", "idle_timeout"}
_WHOLE = {"size", "min_idle", "window", "max_attempts", "max_retries", "max_calls", "max_rss"} | {
    "max_frame",
    "max_results",
    "max_result_bytes",
    "breaker_failures",
}


def _check_choice(node: str, name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        allowed = ", ".join(map(repr, choices))
        raise GraphError(f'"{node}": {name} = {value!r} must be one of {allowed}')


def _check_limits(node: str, limits: object) -> None:
    if not isinstance(limits, Limits):
        raise GraphError(f'"{node}": limits must be Limits(...), not {limits!r}')
    for name, value in vars(limits).items():
        if value is not None and not (isinstance(value, int) and value >= 0):
            raise GraphError(f'"{node}": limits: {name} = {value!r} must be a whole number or None')


def _check_order(node: str, settings: Settings) -> None:
    rules = (
        (settings.min_idle <= settings.size, "min_idle must not be over size"),
        (settings.backoff <= settings.backoff_max, "backoff must not be over backoff_max"),
        (
            settings.acquire_timeout is None or settings.acquire_timeout <= settings.timeout,
            "acquire_timeout must not be over timeout, which covers it",
        ),
    )
    for holds, rule in rules:
        if not holds:
            raise GraphError(f'"{node}": {rule}')


def _range(name: str, low: float, high: float) -> str:
    kind = "a whole number " if name in _WHOLE else ""
    return f"{kind}from {low:,} to {high:,}" if high < _INFINITE else f"{kind}of {low:,} or more"
