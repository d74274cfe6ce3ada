"""
The data that a shared host and its clients exchange, as values of the wire and back: programs,
settings and exceptions. No I/O here, and no pickle: bytes from a socket must not choose the code
that runs.

An exception is sent with its type, its arguments and its attributes, as by pickle, but without its
cause and traceback. An exception that is not one of :mod:`emit.errors` arrives as a `HostError`
that names its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from emit import errors
from emit.context import Context, Run, as_trace
from emit.errors import EmitError, HostError, StartError
from emit.host.fate import Job
from emit.host.settings import Settings, check
from emit.host.system.program import Limits, Parts, Program, Toolchain
from emit.letter import Cause, DeadLetter

__all__ = [
    "Described",
    "from_error",
    "from_job",
    "from_node",
    "to_context",
    "to_error",
    "to_node",
    "to_run",
]


@dataclass(frozen=True)
class Described:
    """The description of a node for a host; see :meth:`emit.host.host.Host.calls`."""

    program: Program
    settings: Settings
    program_node: str | None = None
    shared: bool = True
    project: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """A key that equal nodes share."""
        program = self.program
        started = (program.argv, program.cwd, program.limits, frozenset(program.env.items()))
        return (*started, program.config, self.settings, self.program_node, self.shared)


def from_node(node: Described) -> dict[str, Any]:
    """Return a node as a map."""
    program = node.program
    toolchain = program.toolchain
    return {
        "program": {
            **asdict(program),
            "argv": list(program.argv),
            "env": dict(program.env),
            "toolchain": None if toolchain is None else _from_toolchain(toolchain),
            "parts": None if program.parts is None else _with_lists(asdict(program.parts)),
        },
        "settings": asdict(node.settings),
        "program_node": node.program_node,
        "shared": node.shared,
        "project": node.project,
    }


def to_node(
    name: str,
    data: Mapping[str, Any],
    explain: Callable[[Program, bool], str] = lambda program, packages: "",
) -> Described:
    """
    Return the node *name* from the map of `from_node`, with *explain* for its toolchain.

    Raises:
        StartError: The map is of an Emit that has other settings than this one.
        GraphError: The value of a setting is not valid.
    """
    with _of_one_version(name):
        program, settings = dict(data["program"]), dict(data["settings"])
        program["argv"] = tuple(program["argv"])
        program["limits"] = _limits(program.get("limits"))
        program["toolchain"] = _to_toolchain(program.get("toolchain"), explain)
        program["parts"] = _to_parts(program.get("parts"))
        settings["limits"] = Limits(**settings["limits"])
        shared = {key: data[key] for key in ("program_node", "shared", "project")}
        node = Described(Program(**program), Settings(**settings), **shared)
        _check_types(node)
    check(name, node.settings)
    return node


@contextmanager
def _of_one_version(node: str) -> Iterator[None]:
    """Raise StartError for a missing, unknown or mistyped field: the two ends differ."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise StartError(
            node=node,
            argv=(),
            reason=f"the shared host and its client are of different versions of Emit: {text}",
            hint="restart the older one",
        ) from error


def _check_types(value: Any) -> None:
    """
    Compare the values in a dataclass with its annotations.

    Raises:
        TypeError: A value does not fit. The text names the field.
    """
    for name, kind in get_type_hints(type(value)).items():
        held = getattr(value, name)
        if not _fits(held, kind):
            raise TypeError(f"{name} is of type {type(held).__name__}")


def _fits(value: Any, kind: Any) -> bool:
    kinds = get_args(kind)
    if get_origin(kind) in (UnionType, Union):
        return any(_fits(value, each) for each in kinds)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(item, kinds[0]) for item in value)
    if get_origin(kind) is Mapping:
        return isinstance(value, dict) and all(isinstance(x, str) for i in value.items() for x in i)
    if get_origin(kind) is Callable:
        return callable(value)
    if get_origin(kind) is Literal:
        return isinstance(value, str)  # `check` names the allowed ones
    if is_dataclass(value):
        _check_types(value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _limits(data: Mapping[str, Any] | None) -> Limits | None:
    return None if data is None else Limits(**data)


def _from_toolchain(toolchain: Toolchain) -> dict[str, Any]:
    told = {**_with_lists(asdict(toolchain)), "install": dict(toolchain.install)}
    del told["explain"]  # a function; the shared host has its own
    return told


def _to_toolchain(
    data: Mapping[str, Any] | None, explain: Callable[[Program, bool], str]
) -> Toolchain | None:
    if data is None:
        return None
    commands = {name: tuple(data[name]) for name in ("detect", "check")}
    return Toolchain(**{**data, **commands}, explain=explain)


def _with_lists(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(x) if isinstance(x, tuple) else x for key, x in data.items()}


def _to_parts(data: Mapping[str, Any] | None) -> Parts | None:
    if data is None:
        return None
    told: Any = {key: tuple(x) if isinstance(x, list) else x for key, x in data.items()}
    return Parts(**told)


def from_job(job: Job) -> dict[str, Any]:
    """Return the host's data about a call: its queue's context, and whether it is streamed."""
    meta: dict[str, Any] = {} if job.context is None else {"context": job.context._asdict()}
    if job.context is None and job.run is not None and job.run.trace is not None:
        meta["trace"] = job.run.trace.headers
    return {**meta, "stream": True} if job.streamed else meta


def to_context(node: str, meta: Mapping[str, Any] | None) -> Context | None:
    """
    Return the context in the map of `from_job`. Fields of a later version are left out.

    Raises:
        StartError: A field that this version needs is missing, or is of another type.
    """
    told = (meta or {}).get("context")
    if told is None:
        return None
    with _of_one_version(node):
        known = Context(**{name: told[name] for name in Context._fields if name in told})
        _check_types(known)
    return known


def to_run(meta: Mapping[str, Any] | None) -> Run | None:
    """Return a run with the trace context in the map of `from_job`, if there is one."""
    told = (meta or {}).get("trace")
    if not isinstance(told, dict):
        return None
    run = Run(0)
    run.trace = as_trace(told.get("traceparent"), told.get("tracestate"))
    return run


_CAUSE = tuple(field.name for field in fields(Cause))


def from_error(error: BaseException) -> dict[str, Any]:
    """Return an exception as a map."""
    if not isinstance(error, EmitError) or type(error).__name__ not in errors.__all__:
        return {"type": type(error).__name__, "text": _plain(str(error))}
    state = {name: _plain(value) for name, value in vars(error).items()}
    return {"type": type(error).__name__, "args": _plain(error.args), "state": state}


def to_error(data: Mapping[str, Any], node: str, message: Mapping[str, Any]) -> Exception:
    """
    Return the exception in the map of `from_error`.

    Args:
        data: The map.
        node: The node whose call failed.
        message: The fields of the call. A dead letter is sent without them, as the client has them.
    """
    name = data.get("type", "an error")
    if name not in errors.__all__ or "args" not in data:
        return HostError(f'"{node}": {name}: {data.get("text", "")}', node=node)
    made: type[EmitError] = getattr(errors, name)
    try:
        with _of_one_version(node):
            error = made.__new__(made, *_restored(data["args"], node, message))
            for key, value in data["state"].items():
                setattr(error, key, _restored(value, node, message))
    except StartError as unknown:
        return unknown
    return error


def _plain(value: Any) -> Any:
    """Return a value for the wire. A value that the wire would change becomes a map of its kind."""
    if isinstance(value, str):  # a path may have bytes that are not UTF-8
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
    known = ({name: cause[name] for name in _CAUSE if name in cause} for cause in causes)
    return DeadLetter(node, message, tuple(Cause(**cause) for cause in known))


#: For each kind of value: its name in the map, its test, and the functions to convert it and back.
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
