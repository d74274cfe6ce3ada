"""Every exception of Emit. Imports nothing of Emit, so that any module may raise them.

::

    EmitError
      GraphError (ValueError)       a wrong declaration, raised while registering
      NodeError                     the author's side
        ResultError (ValueError)    a result that does not fit the node's fields
        Reject                      an author refuses the message: no attempt can succeed
        Retry                       an author asks for another attempt
        RemoteError                 a handler in another process failed; also a Reject or a Retry
                                    if it raised that of its SDK
      DispatchError                 the queue refused a message; ``__cause__`` is its own exception
      InProgress                    another process is at the same piece of work
      LedgerError                   Emit's own Redis failed at a request
      LetterNotFound (LookupError)  no dead letter of that id is stored
      AmbiguousLetter (LookupError) several dead letters may be meant
      UnreadableLetter (ValueError) a dead letter is damaged, or of a newer version of Emit
      Undelivered                   delivered again and again, and its worker died each time
      Unreadable                    a queue brought something that is not a message
      HostError                     the host's side: the node's process, its pipe, its pool
        StartError                  the program cannot be started as configured
        StartTimeout                it started and was not ready in time
        ProcessDied                 it ended while a message was with it
        CallTimeout                 no answer before the deadline
        ProtocolError               it wrote something that is not an answer
        FrameTooLarge               a message or an answer over ``max_frame``
        EncodeError (ValueError)    a value that the wire or a queue cannot carry unchanged
        PoolTimeout                 no process became free in time
        PoolClosed                  the router or host was closed
        Unavailable                 the breaker is open after failed starts
          HostLost                  the shared host is not there, or ended in the middle

Every one of them pickles with its attributes, since Celery and RQ send exceptions between
processes. ``__cause__`` and the traceback stay behind, as with every Python exception.
"""

from __future__ import annotations

import signal as _signal
from collections.abc import Sequence
from typing import Any

__all__ = [
    "AmbiguousLetter",
    "CallTimeout",
    "DispatchError",
    "EmitError",
    "EncodeError",
    "FrameTooLarge",
    "GraphError",
    "HostError",
    "HostLost",
    "InProgress",
    "LedgerError",
    "LetterNotFound",
    "NodeError",
    "PoolClosed",
    "PoolTimeout",
    "ProcessDied",
    "ProtocolError",
    "Reject",
    "RemoteError",
    "ResultError",
    "Retry",
    "StartError",
    "StartTimeout",
    "Unavailable",
    "Undelivered",
    "Unreadable",
    "UnreadableLetter",
]


#: The largest possible ``max_frame``, less the bytes that a shared host adds around a result.
_LARGEST = (1 << 24) - 1 - 64

#: Candidates in a text.
_SOME = 5

#: Characters of a command in a text.
_SHORT = 120

#: The beginning of a router's note on an exception that says which node raised it.
IN_NODE = "in node "


class EmitError(Exception):
    """The root of all of Emit's own exceptions."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls cls(*args), which fails for keyword-only constructors.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[EmitError], args: tuple[Any, ...], state: dict[str, Any]) -> EmitError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class GraphError(EmitError, ValueError):
    """A wrong declaration, raised while registering. The router stays as it was before it."""


class NodeError(EmitError):
    """A failure on the side of the node's author. The process or function stays usable."""


class ResultError(NodeError, ValueError):
    """
    A node emitted a value that does not fit its fields. No result of that run is sent on.

    Attributes:
        node: The node's name.
        fields: The fields it declared.
    """

    def __init__(self, text: str, *, node: str = "", fields: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.node = node
        self.fields = tuple(fields)


class Reject(NodeError):
    """
    The node's author refuses a message: no attempt with it can succeed. Raise it in a Python node;
    programs raise the ``Reject`` of their SDK. A queue makes the message a dead letter at once.

    Catch it to tell a refusal from a failure, in whatever language the node is written.

    Example:
        >>> from emit import Router
        >>> @Router().node(["total"], name="price")
        ... def price(msg):
        ...     raise Reject(f"no such thing: {msg.sku}")
        >>> try:
        ...     price(sku="milk")
        ... except Reject as error:
        ...     print(error)
        no such thing: milk
    """

    retry: bool | None = False


class Retry(NodeError):
    """
    The node's author asks for another attempt. Raise it in a Python node; programs raise the
    ``Retry`` of their SDK.

    A queue makes the attempt. A program without a queue is tried again by its host. A Python node
    without a queue is not: its caller gets the exception.

    Args:
        text: The reason.
        after: Seconds to wait before the attempt. None: the queue's own wait.

    Attributes:
        after: As given.

    Raises:
        ValueError: *after* is negative or not finite.
    """

    retry: bool | None = True

    def __init__(self, text: str = "try again", after: float | None = None) -> None:
        if after is not None and not 0 <= after < float("inf"):
            raise ValueError(f"after must be seconds from 0 up, not {after!r}")
        super().__init__(text)
        self.after = after


class RemoteError(NodeError):
    """
    A handler in another process failed. Its process stays usable.

    If the handler raised its SDK's ``Reject`` (*retry* is False) or ``Retry`` (True), this is
    also a :class:`Reject` or a :class:`Retry`.

    Attributes:
        node: The node's name.
        type: The error's class there, such as ``"ArgumentError"``.
        message: Its text. The text of this exception has its further lines indented.
        stack: Its stack, the author's own frames first.
        retry: True: try again, False: never, None: the handler said nothing.
        after: Seconds to wait before another attempt, or None.
        letter: The dead letter, if this was the last attempt at a message; else None.
    """

    letter: Any = None

    def __init__(
        self,
        *,
        node: str,
        type: str,
        message: str,
        stack: Sequence[str] = (),
        retry: bool | None = None,
        after: float | None = None,
    ) -> None:
        where = f" ({stack[0]})" if stack else ""
        super().__init__(f'"{node}": {type}: {_indented(message)}{where}')
        self.node = node
        self.type = type
        self.message = message
        self.stack = tuple(stack)
        self.retry = retry
        self.after = after
        self._join_class()

    def _join_class(self) -> None:
        """Become a Reject or a Retry as well, if the handler raised one."""
        if type(self) is RemoteError:
            self.__class__ = _ALSO.get(self.retry, RemoteError)

    def __reduce__(self) -> tuple[Any, ...]:
        if type(self) in _ALSO.values():
            return _rebuild_remote, (self.args, self.__dict__)
        return super().__reduce__()


def _rebuild_remote(args: tuple[Any, ...], state: dict[str, Any]) -> RemoteError:
    error = RemoteError.__new__(RemoteError, *args)
    error.__dict__.update(state)
    error._join_class()
    return error


#: The classes of a RemoteError by its ``retry``. They have no names of their own: dead letters,
#: counters and facts say RemoteError for each.
_ALSO: dict[bool | None, type[RemoteError]] = {
    False: type("RemoteError", (RemoteError, Reject), {"__module__": __name__}),
    True: type("RemoteError", (RemoteError, Retry), {"__module__": __name__}),
}


class DispatchError(EmitError):
    """The queue refused a message. ``__cause__`` is the queue's own exception."""


class InProgress(EmitError):
    """
    Another process is doing the same piece of work, or was killed while it did. Nothing was done;
    try again later.

    Attributes:
        key: The piece of work.
        lease: Seconds after which the claim of a killed process ends.
    """

    def __init__(self, key: str, lease: float) -> None:
        super().__init__(
            f'"{key}": another process is at it, or was killed at it at most {lease:g} s ago; '
            f"try again later"
        )
        self.key = key
        self.lease = lease


class LedgerError(EmitError):
    """
    The Redis in which Emit keeps counts, marks and dead letters failed at a request. No message is
    at fault, so the message waits. ``__cause__`` is the client's exception.

    Attributes:
        doing: What Emit asked Redis to do.
        where: Its address, without a password.
    """

    def __init__(self, doing: str, where: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        super().__init__(f"the Redis at {where} could not {doing}: {reason}")
        self.doing = doing
        self.where = where


class LetterNotFound(EmitError, LookupError):
    """No dead letter of that id is stored: replayed or dropped, too old, or never there."""

    def __init__(self, id: str) -> None:
        super().__init__(f'there is no dead letter "{id}" (replayed, dropped or expired?)')
        self.id = id


class AmbiguousLetter(EmitError, LookupError):
    """
    The beginning of an id fits several dead letters.

    Attributes:
        id: The id that was asked for.
        candidates: The ids, or the keys in Redis if letters of several applications fit.
    """

    def __init__(self, id: str, candidates: Sequence[str]) -> None:
        shown = ", ".join(candidates[:_SOME]) + (", ..." if len(candidates) > _SOME else "")
        super().__init__(f'"{id}" may be {len(candidates)} dead letters: {shown}')
        self.id = id
        self.candidates = tuple(candidates)


class UnreadableLetter(EmitError, ValueError):
    """
    This version of Emit can't read a stored dead letter. The letter can be shown as it is stored,
    and dropped.

    Attributes:
        id: The letter's id.
        reason: What is wrong with it.
    """

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(
            f'the dead letter "{id}" can\'t be read: {reason}. `emit dead show` shows it as it is '
            f"stored, and `emit dead drop` deletes it"
        )
        self.id = id
        self.reason = reason


class Undelivered(EmitError):
    """
    A message was delivered again and again, and each time its worker died before the end.

    Attributes:
        node: The node's name.
        deliveries: The number of deliveries: the ``max_deliveries`` of the node.
    """

    def __init__(self, *, node: str, deliveries: int) -> None:
        super().__init__(
            f'"{node}": delivered max_deliveries = {deliveries} times, and each time the worker '
            f"was gone before it was done: killed, out of memory, or over its hard time limit"
        )
        self.node = node
        self.deliveries = deliveries


class Unreadable(EmitError):
    """
    A queue delivered something that can't be read as a message. It is damaged, a newer version of
    Emit wrote it, or it was not sent as a message. Its dead letter holds it as it came.

    Attributes:
        node: The node that was to get it.
        reason: What is wrong with it.
    """

    def __init__(self, *, node: str, reason: str) -> None:
        super().__init__(f'"{node}" got what it can\'t read: {reason}')
        self.node = node
        self.reason = reason


class HostError(EmitError):
    """
    A failure on the host's side of a node.

    Attributes:
        node: The node's name.
        may_have_run: True if the node's code may have seen the message. If False, it certainly has
            not, so sending the message again repeats nothing.
        letter: The dead letter, if this was the last attempt at a message; else None.
    """

    may_have_run = True
    letter: Any = None

    def __init__(self, text: str, *, node: str, may_have_run: bool | None = None) -> None:
        super().__init__(text)
        self.node = node
        if may_have_run is not None:
            self.may_have_run = may_have_run

    def about(self, node: str) -> HostError:
        """
        Return the same error for *node*, if the error named a program that several nodes share.
        """
        if node and node != self.node:
            text, *more = self.args
            self.args = (str(text).replace(f'"{self.node}"', f'"{node}"', 1), *more)
            self.node = node
        return self


class StartError(HostError):
    """
    The program cannot be started, or it ended before it was ready.

    Attributes:
        started: True if the program was started, so another start may succeed. If False, the
            command itself is at fault.
        signal: The signal that killed the program or its build, such as ``"SIGKILL"``, or None.
        argv: The whole command, as a tuple; the text has the two ends of a long one.
        reason: The system's reason, such as ``"command not found"``.
        hint: What to do about it; may be empty.
        stderr_tail: The end of its output on stderr.
    """

    may_have_run = False

    def __init__(
        self,
        *,
        node: str,
        argv: Sequence[str],
        reason: str,
        hint: str = "",
        stderr_tail: str = "",
        started: bool = False,
        signal: str | None = None,
    ) -> None:
        cause = f"{reason} ({hint})" if hint else reason
        super().__init__(
            f'"{node}" cannot be started: {_indented(cause)}; its command: {_short(argv)}',
            node=node,
        )
        self.__notes__ = _last_words(stderr_tail)
        self.started = started
        self.signal = signal
        self.argv = tuple(argv)
        self.reason = reason
        self.hint = hint
        self.stderr_tail = stderr_tail


class StartTimeout(HostError):
    """
    The program started and was not ready in time. It has been killed.

    Attributes:
        timeout: Seconds, the ``start_timeout`` of the node.
        stderr_tail: The end of its output on stderr.
    """

    may_have_run = False

    def __init__(self, *, node: str, timeout: float, stderr_tail: str = "", hint: str = "") -> None:
        text = f'"{node}" was not ready within start_timeout = {timeout:g} s'
        super().__init__(text + (f" ({hint})" if hint else ""), node=node)
        self.__notes__ = _last_words(stderr_tail)
        self.timeout = timeout
        self.stderr_tail = stderr_tail


class ProcessDied(HostError):
    """
    A node's process ended while it had a message, or it ended with a failure.

    Attributes:
        exit_code: Its exit code; None if a signal ended it or the code is not known.
        signal: The signal's name, such as ``"SIGKILL"``, or None.
        stderr_tail: The end of its output on stderr, at most 8 KiB.
        uptime: Seconds from its start to its end.
        calls: Messages it had finished before.
        said: The reason that the process itself gave, if any, such as ``fatal runtime error: stack
            overflow``.
    """

    def __init__(
        self,
        *,
        node: str,
        status: int | None,
        reason: str = "",
        stderr_tail: str = "",
        uptime: float = 0.0,
        calls: int = 0,
        may_have_run: bool | None = None,
        hint: str = "",
        said: str = "",
    ) -> None:
        self.said = said
        self.exit_code = status if status is not None and status >= 0 else None
        self.signal = signal_of(status)
        self.stderr_tail = stderr_tail
        self.uptime = uptime
        self.calls = calls
        how = reason or describe_status(status)
        text = f'"{node}" {how} after {uptime:.3g} s and {calls} calls'
        text += f" ({hint})" if hint else ""
        text += f"; its stderr ended with: {said}" if said else ""
        super().__init__(text, node=node, may_have_run=may_have_run)
        self.__notes__ = _last_words(stderr_tail)


class CallTimeout(HostError):
    """
    No results before the deadline. A process that can cancel a call was asked to, and lives on if
    it did within ``cancel_grace``. Otherwise it has been killed, with all its children. Or the
    handler stopped itself at the deadline (an ``AbortSignal`` in Node, the context in Go), and the
    process lives on.

    Attributes:
        timeout: Seconds, the ``timeout`` of the node.
        stderr_tail: The end of its output on stderr.
        remote: The `RemoteError` of a handler that stopped itself; None if it did not.
    """

    def __init__(
        self,
        *,
        node: str,
        timeout: float,
        stderr_tail: str = "",
        hint: str = "",
        remote: RemoteError | None = None,
    ) -> None:
        if remote is None:
            text = f'"{node}" gave no answer within timeout = {timeout:g} s'
        else:
            said = str(remote).removeprefix(f'"{node}": ')
            text = f'"{node}" gave up at its deadline, timeout = {timeout:g} s: {said}'
        super().__init__(text + (f" ({hint})" if hint else ""), node=node)
        self.__notes__ = _last_words(stderr_tail)
        self.__cause__ = remote
        self.timeout = timeout
        self.stderr_tail = stderr_tail
        self.remote = remote


class ProtocolError(HostError):
    """
    A process wrote something that is not a valid answer. It has been killed, as its pipe can't be
    trusted.

    Attributes:
        reason: What was wrong: where, and how much, but never the content of a message or result.
        sample: The first bytes of its output, escaped to ASCII. They may be part of a message, so
            they are in no text, no log and no dead letter, and a pickle leaves them out.
        stderr_tail: The end of its output on stderr.
    """

    sample = ""

    def __init__(
        self,
        *,
        node: str,
        reason: str,
        sample: bytes = b"",
        stderr_tail: str = "",
        may_have_run: bool | None = None,
    ) -> None:
        self.reason = reason
        self.sample = escape(sample[:80])
        self.stderr_tail = stderr_tail
        super().__init__(f'"{node}": {reason}', node=node, may_have_run=may_have_run)
        self.__notes__ = _last_words(stderr_tail)

    def __reduce__(self) -> tuple[Any, ...]:
        # Queues keep pickles and show them.
        state = {name: value for name, value in vars(self).items() if name != "sample"}
        return _rebuild, (type(self), self.args, state)


class FrameTooLarge(HostError):
    """
    A message or an answer over the limit. A message over the limit was not sent.

    Attributes:
        size: Bytes, or None if it was cut off before its end.
        limit: Bytes, the ``max_frame`` of the node.
    """

    def __init__(self, *, node: str, size: int | None, limit: int, outgoing: bool) -> None:
        what = "a message" if outgoing else "an answer"
        of = f" of {size} bytes" if size is not None else ""
        less = "send" if outgoing else "emit"
        other = "raise max_frame of the node" if limit < _LARGEST else "pass a path"
        text = f'"{node}": {what}{of} is over max_frame = {limit} bytes'
        text += f": {less} less at once, or {other}"
        super().__init__(text, node=node, may_have_run=not outgoing)
        self.size = size
        self.limit = limit


class EncodeError(HostError, ValueError):
    """
    A value that the wire or a queue cannot carry unchanged. It was not sent; the process is kept.

    Attributes:
        path: Its place in the message, such as ``"items[3].price"``.
        reason: What is wrong with it, and what would carry it.
    """

    may_have_run = False

    def __init__(self, *, node: str, path: str, reason: str) -> None:
        super().__init__(f'"{node}": {path or "the message"}: {reason}', node=node)
        self.path = path
        self.reason = reason


class PoolTimeout(HostError):
    """
    No process became free in time. The message was not sent.

    Attributes:
        timeout: Seconds waited, the ``acquire_timeout`` of the node.
    """

    may_have_run = False

    def __init__(self, *, node: str, timeout: float, size: int, limit: str = "") -> None:
        busy = f"all {size} processes were busy"
        if limit:
            busy = f"all processes that the host may have ({limit}) were busy"
        setting = "limit of the host" if limit else "size"
        super().__init__(
            f'"{node}": {busy} for acquire_timeout = {timeout:g} s; a larger {setting} or '
            f"acquire_timeout may help",
            node=node,
        )
        self.timeout = timeout


class PoolClosed(HostError):
    """The router or host was closed. Messages not yet answered may have run."""

    def __init__(self, *, node: str, may_have_run: bool = False) -> None:
        super().__init__(
            f'"{node}": its processes were closed', node=node, may_have_run=may_have_run
        )


class Unavailable(HostError):
    """
    The node failed to start several times, so calls fail at once for a while.

    Attributes:
        retry_in: Seconds until the next attempt to start.
        last: The exception of the last start.
    """

    may_have_run = False

    def __init__(self, *, node: str, retry_in: float, last: BaseException | None) -> None:
        super().__init__(
            f'"{node}" is not available; the next start is in {retry_in:.3g} s; last cause: {last}',
            node=node,
        )
        self.retry_in = retry_in
        self.last = last


class HostLost(Unavailable):
    """
    The shared host was not there for the node's ``timeout``, or had no room for another client, or
    it was lost ``max_attempts`` times with the message. No attempt is charged; try again
    later.

    Attributes:
        path: Its socket.
        reason: The last failure.
    """

    def __init__(
        self,
        *,
        node: str,
        path: str,
        reason: str,
        may_have_run: bool = False,
        is_full: bool = False,
    ) -> None:
        what = "the shared host at" if is_full else "no shared host at"
        hint = "raise --max-clients of emit host" if is_full else "start one with: emit host"
        text = f'"{node}": {what} {path}: {reason} ({hint}; or set EMIT_HOST=private)'
        HostError.__init__(self, text, node=node, may_have_run=may_have_run)
        self.retry_in = 0.0
        self.last = None
        self.path = path
        self.reason = reason


def describe_status(status: int | None) -> str:
    """
    Say how a process ended, from a ``Popen.returncode``.

    Example:
        >>> describe_status(3), describe_status(-15)
        ('ended with exit code 3', 'was killed by SIGTERM')
    """
    if status is None:
        return "ended with an unknown status: is SIGCHLD ignored?"
    if status >= 0:
        return f"ended with exit code {status}"
    cause = ": out of memory?" if status == -_signal.SIGKILL else ""
    return f"was killed by {signal_name(-status)}{cause}"


def signal_of(status: int | None) -> str | None:
    """Return the name of the signal that ended a process, or None, from a ``Popen.returncode``."""
    return signal_name(-status) if status is not None and status < 0 else None


def signal_name(number: int) -> str:
    """Return the name of a signal, or ``"signal 40"`` if it has none."""
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def escape(data: bytes) -> str:
    """Return bytes as printable ASCII, so that a node's output cannot drive a terminal or a log."""
    return data.decode("ascii", "backslashreplace").encode("unicode_escape").decode("ascii")


def _indented(text: str) -> str:
    """
    Indent all lines but the first, so that none can pass for another record in a log or a terminal.
    """
    return text.replace("\n", "\n    ")


def _short(argv: Sequence[str]) -> str:
    """
    Return a command in one line, with only both ends of a long one. In a launcher's command, the
    program and the file are what matters. The error's ``argv`` has the whole command.
    """
    command = " ".join(" ".join(argv).split())
    return command if len(command) <= _SHORT else f"{command[:40]} ... {command[45 - _SHORT :]}"


def _last_words(stderr_tail: str) -> list[str]:
    """
    Return the end of stderr as a note for the traceback. A log of one line shows only the last
    words.
    """
    tail = stderr_tail.strip()
    return [_indented(f"Its stderr ended with:\n{tail}")] if tail else []
