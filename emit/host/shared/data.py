"""
What a shared host and its clients tell each other, as values of the wire and back: programs,
settings and exceptions. No I/O here, and no pickle: bytes from a socket must not choose what is
run.

An exception crosses with its type, its arguments and its attributes, as it does by pickle; its
cause and traceback stay behind. One that is not of :mod:`emit.errors` arrives as a `HostError`
that names its type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from emit import errors
from emit.context import Context
from emit.errors import EmitError, HostError, StartError
from emit.host.settings import Settings
from emit.host.system.program import Limits, Program, Toolchain
from emit.letter import Cause, DeadLetter

__all__ = [
    "Described",
    "from_context",
    "from_error",
    "from_node",
    "to_context",
    "to_error",
    "to_node",
]


@dataclass(frozen=True)
class Described:
    """What a host has to know of a node; see :meth:`emit.host.host.Host.calls`."""

    program: Program
    settings: Settings
    program_node: str | None = None
    shared: bool = True

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for nodes that are the same."""
        program = self.program
        started = (program.argv, program.cwd, program.limits, frozenset(program.env.items()))
        return (*started, self.settings, self.program_node, self.shared)


def from_node(node: Described) -> dict[str, Any]:
    """A node as a map."""
    program = node.program
    toolchain = program.toolchain
    return {
        "program": {
            **asdict(program),
            "argv": list(program.argv),
            "env": dict(program.env),
            "toolchain": None if toolchain is None else _from_toolchain(toolchain),
        },
        "settings": asdict(node.settings),
        "program_node": node.program_node,
        "shared": node.shared,
    }


def to_node(data: Mapping[str, Any]) -> Described:
    """
    The other way round.

    Raises:
        StartError: It is of an Emit that has other settings than this one.
    """
    try:
        program, settings = dict(data["program"]), dict(data["settings"])
        program["argv"] = tuple(program["argv"])
        program["limits"] = _limits(program["limits"])
        program["toolchain"] = _to_toolchain(program["toolchain"])
        settings["limits"] = Limits(**settings["limits"])
        shared = {name: data[name] for name in ("program_node", "shared")}
        return Described(Program(**program), Settings(**settings), **shared)
    except (KeyError, TypeError, ValueError) as error:
        raise StartError(
            node=str(data.get("node", "?")),
            argv=(),
            reason=f"the shared host is of another version of Emit ({error})",
            hint="restart it",
        ) from error


def _limits(data: Mapping[str, Any] | None) -> Limits | None:
    return None if data is None else Limits(**data)


def _from_toolchain(toolchain: Toolchain) -> dict[str, Any]:
    return {
        **asdict(toolchain),
        "detect": list(toolchain.detect),
        "check": list(toolchain.check),
        "install": dict(toolchain.install),
    }


def _to_toolchain(data: Mapping[str, Any] | None) -> Toolchain | None:
    if data is None:
        return None
    commands = {name: tuple(data[name]) for name in ("detect", "check")}
    return Toolchain(**{**data, **commands})


def from_context(told: Context | None) -> dict[str, Any]:
    """What a queue knows of a message, for the ``meta`` of its call."""
    return {} if told is None else {"context": asdict(told)}


def to_context(meta: Mapping[str, Any] | None) -> Context | None:
    """The other way round."""
    told = (meta or {}).get("context")
    return None if told is None else Context(**told)


def from_error(error: BaseException) -> dict[str, Any]:
    """An exception as a map."""
    if not isinstance(error, EmitError) or type(error).__name__ not in errors.__all__:
        return {"type": type(error).__name__, "text": _plain(str(error))}
    state = {name: _plain(value) for name, value in vars(error).items()}
    return {"type": type(error).__name__, "args": _plain(error.args), "state": state}


def to_error(data: Mapping[str, Any], node: str, message: Mapping[str, Any]) -> Exception:
    """
    The exception that a map stands for.

    Args:
        data: The map.
        node: Whose call failed.
        message: What it was called with. A dead letter crosses without it, since here it is.
    """
    name = data["type"]
    if name not in errors.__all__ or "args" not in data:
        return HostError(f'"{node}": {name}: {data.get("text", "")}', node=node)
    made: type[EmitError] = getattr(errors, name)
    error = made.__new__(made, *_restored(data["args"], node, message))
    for key, value in data["state"].items():
        setattr(error, key, _restored(value, node, message))
    return error


def _plain(value: Any) -> Any:
    """A value of the wire; what is none, and what it would change, as a map that names its kind."""
    if isinstance(value, str):  # a path may have bytes that are no UTF-8
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, (bool, int, float)):
        return value
    for kind, (is_kind, plain, _) in _KINDS.items():
        if is_kind(value):
            return {kind: plain(value)}
    return {"text": repr(value)}


def _restored(value: Any, node: str, message: Mapping[str, Any]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    return _KINDS[kind][2](inner, node, message) if kind in _KINDS else inner


def _list(items: Any, node: str, message: Mapping[str, Any]) -> list[Any]:
    return [_restored(item, node, message) for item in items]


def _letter(causes: Any, node: str, message: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter(node, message, tuple(Cause(**cause) for cause in causes))


#: By its name in the map: how a kind of value is told, made plain, and made of that again.
_KINDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any], Callable[..., Any]]] = {
    "tuple": (
        lambda value: isinstance(value, tuple),
        lambda value: [_plain(item) for item in value],
        lambda items, *context: tuple(_list(items, *context)),
    ),
    "list": (
        lambda value: isinstance(value, list),
        lambda value: [_plain(item) for item in value],
        _list,
    ),
    "letter": (
        lambda value: isinstance(value, DeadLetter),
        lambda letter: [asdict(cause) for cause in letter.causes],
        _letter,
    ),
    "error": (lambda value: isinstance(value, BaseException), from_error, to_error),
}
