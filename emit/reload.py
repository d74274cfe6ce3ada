"""
Have the programs of nodes reloaded, in this process or in other hosts of this machine; see
:mod:`emit.host.swap` for what that means.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from emit.errors import HostError, HostLost
from emit.host import status
from emit.host.host import Host, RemoteHost
from emit.host.shared.data import to_error
from emit.host.swap import Swapped
from emit.host.swap import reload as swap_here
from emit.node import Handler

__all__ = ["Asked", "ask_hosts", "reload", "socket_of"]

#: Seconds between two questions for an outcome.
_TURN = 0.05

#: Hosts that swap at the same time, after the first one has shown that the new version starts.
_TOGETHER = 4


def reload(seams: Mapping[str, Handler], *, force: bool = False) -> list[Swapped]:
    """
    Reload the programs of nodes of this process, as :meth:`emit.router.core.Router.reload`.

    Args:
        seams: The handlers by the names of their nodes.
        force: Also replace processes that run the present version.
    """
    own: dict[Host, list[Any]] = {}
    others: dict[tuple[str, str], list[str]] = {}
    for name, seam in seams.items():
        host, calls = seam.running() or (None, None)
        if isinstance(host, Host):
            own.setdefault(host, []).append(calls)
        elif isinstance(host, RemoteHost):
            others.setdefault((host.path, host.project), []).append(name)
    done = [each for host, calls in own.items() for each in swap_here(host, calls, force=force)]
    for (path, project), names in others.items():
        done += _at_a_shared_host(path, names, project, force)
    for each in done:
        if each.error is not None:
            raise each.error
    return done


def _at_a_shared_host(path: str, nodes: list[str], project: str, force: bool) -> list[Swapped]:
    socket = socket_of(path)
    asked = None if socket is None else _begin(socket, nodes, project, force)
    if asked is not None:
        asked.wait()
    if asked is None or asked.swapped is None:
        reason = "it does not answer" if asked is None else asked.trouble or "it has ended"
        raise HostLost(node=nodes[0], path=path, reason=reason)
    return [*map(_restored, asked.swapped, asked.causes)]


def _restored(told: Mapping[str, Any], cause: Mapping[str, Any] | None) -> Swapped:
    """Return the outcome in the map of :meth:`Swapped.as_data`, with its error."""
    nodes, before = tuple(told["nodes"]), tuple(told["before"])
    error = None if cause is None else to_error(cause, "".join(nodes[:1]), {})
    assert error is None or isinstance(error, HostError)
    return Swapped(nodes, before, told["version"], told["processes"], error)


def socket_of(path: str | None) -> Path | None:
    """Return the socket where the shared host at *path* answers questions; None: it has none."""
    try:
        owner = Path(f"{path}.lock").read_text("ascii").strip() if path else ""
    except (OSError, ValueError):
        return None
    found = (each for each in status.sockets() if owner and each.name.startswith(f"{owner}-"))
    return next(found, None)


# -- Other hosts -----------------------------------------------------------------------------------


class Asked:
    """
    A swap that another host was asked for.

    Attributes:
        pid: The id of the host's process.
        swapped: The outcomes, each as by :meth:`emit.host.swap.Swapped.as_data`; None: they are not
            known, or the host has ended.
        causes: The error of each, or None; see `emit.host.shared.data.to_error`.
        trouble: Why the host does not answer; empty: it does.
    """

    def __init__(self, socket: Path, number: int) -> None:
        self.pid = int(socket.name.partition("-")[0])
        self.swapped: list[dict[str, Any]] | None = None
        self.causes: list[dict[str, Any] | None] = []
        self.trouble = ""
        self._socket = socket
        self._number = number
        self._over = False

    @property
    def is_over(self) -> bool:
        """True if the outcome is known, or will never be. Asks the host."""
        if not self._over:
            try:
                told = status.ask(self._socket, {"swap": {"outcome": self._number}})
                self.swapped = None if told is None else told["swapped"]
                self.causes = [] if self.swapped is None or told is None else told["causes"]
                self._over = told is None or self.swapped is not None
            except (OSError, ValueError, KeyError) as error:
                self.trouble, self._over = str(error) or type(error).__name__, True
        return self._over

    @property
    def has_failed(self) -> bool:
        """True if a new version could not be started there."""
        return any(each["error"] for each in self.swapped or ())

    def wait(self) -> None:
        """Wait for the outcome: for a start of the program, and perhaps a build."""
        while not self.is_over:
            time.sleep(_TURN)


def _begin(
    socket: Path, nodes: Collection[str] | None, project: str | None, force: bool
) -> Asked | None:
    """
    Ask a host to swap. Return None if it has none of the nodes, or has ended.

    Raises:
        OSError, ValueError: It does not answer, or its Emit knows no swaps.
    """
    named = None if nodes is None else list(nodes)
    told = status.ask(socket, {"swap": {"nodes": named, "project": project, "force": force}})
    if told is None or (told.get("swap") is None and project not in (None, told.get("project"))):
        return None
    if "swap" not in told:
        raise ValueError("its Emit is of another version, and can't reload")
    return None if told["swap"] is None else Asked(socket, told["swap"])


class Silent(NamedTuple):
    """A host that does not answer: the id of its process, and why."""

    pid: int
    trouble: str


def ask_hosts(
    nodes: Collection[str] | None,
    project: str | None,
    *,
    force: bool = False,
    sockets: Sequence[Path] | None = None,
) -> Iterator[Asked | Silent]:
    """
    Have all hosts of this user on this machine swap nodes. Yield each that has one, when its
    outcome is known.

    The first host goes alone. If it can't start the new version, the others are not asked: they
    could not either.

    Args:
        nodes: Their names; None: all.
        project: Only of this project; None: of any.
        force: Also replace processes that run the present version.
        sockets: Ask only these hosts.
    """
    waiting: list[Asked] = []
    has_begun = False
    for socket in status.sockets() if sockets is None else sockets:
        try:
            asked = _begin(socket, nodes, project, force)
        except (OSError, ValueError) as error:
            yield Silent(int(socket.name.partition("-")[0]), str(error))
            continue
        if asked is None:
            continue
        waiting.append(asked)
        while len(waiting) >= (_TOGETHER if has_begun else 1):
            for each in [each for each in waiting if each.is_over]:
                waiting.remove(each)
                has_begun = True
                yield each
                if each.has_failed:
                    yield from _all(waiting)
                    return
            time.sleep(_TURN)
    yield from _all(waiting)


def _all(waiting: Sequence[Asked]) -> Iterator[Asked]:
    for each in waiting:
        each.wait()
        yield each
