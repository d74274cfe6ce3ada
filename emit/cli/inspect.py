"""``emit inspect TARGET``: show what a program says of itself, and how it behaves."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from emit.cli.nodes import TARGET, load_program
from emit.cli.output import paint, report_failure, show_logs
from emit.errors import HostError, describe_status
from emit.host.process import Process
from emit.multilang import ShellNode
from emit.text import clean

HELP = "Start a node's program, and show what it says of itself and whether it stops when asked."

EXAMPLES = """
  emit inspect nodes/words.rb
  emit inspect app.router:words --json
  emit inspect 'ruby words.rb'
"""

#: Seconds to wait for the answer to a ping.
_PING = 5.0


@dataclass
class Look:
    """
    The findings about one program. Times are seconds.

    Attributes:
        command: The command that was started.
        language: The program's language.
        protocol: The version of the protocol that the program speaks.
        codec: The codec that the program chose: ``json`` or ``msgpack``.
        sdk: The name and version of its SDK, as the program states them.
        concurrency: Messages that the program works on at a time.
        nodes: Each of its nodes with the fields that the node needs: ``{"required", "optional"}``,
            or None if the program has not said.
        caps: Its other capabilities.
        start_seconds: Time from the start until the program was ready.
        ping_seconds: Time until it answered a ping; None if it can't be asked.
        rss_bytes: Memory, with its children's.
        strays: Lines on its stdout that are not frames.
        stop_seconds: Time from the end of its input to the exit; None if it did not end.
        status: Its exit code, or the negative number of a signal; None if it did not end.
    """

    command: list[str]
    language: str
    protocol: int
    codec: str
    sdk: str
    concurrency: int
    nodes: dict[str, Mapping[str, Any] | None]
    caps: list[str]
    start_seconds: float
    ping_seconds: float | None
    rss_bytes: int
    strays: int
    stop_seconds: float | None
    status: int | None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", help=TARGET)
    parser.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        help="seconds for a file or a command to start, and to end when asked (%(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    patience = {"start_timeout": arguments.timeout, "stop_grace": arguments.timeout}
    node = load_program(arguments.target, mode="persistent", **patience)
    show_logs()
    try:
        look = examine(node)
    except HostError as error:
        report_failure(error)
        return 2
    if arguments.json:
        print(json.dumps(asdict(look), ensure_ascii=False, indent=2))
    else:
        width = max(len(name) for name, _ in _rows(look))
        print(
            "\n".join(f"{paint(f'{name:<{width}}', 'dim')}  {what}" for name, what in _rows(look))
        )
    return 0 if look.status == 0 else 1


def examine(node: ShellNode) -> Look:
    """
    Start a process of a node, look at it and stop it.

    Raises:
        HostError: The process can't be started, does not speak the protocol, or does not answer.
    """
    process = node.start()
    try:
        return _look(node, process)
    finally:
        process.discard()


def _look(node: ShellNode, process: Process) -> Look:
    ready = process.talk.session.ready
    assert ready is not None
    answered = process.ping(_PING)
    rss = process.rss()
    stopped = process.ask_to_end()
    return Look(
        command=list(process.program.argv),
        language=node.language,
        protocol=ready.v,
        codec=ready.codec,
        sdk=ready.sdk,
        concurrency=ready.concurrency,
        nodes={name: ready.inputs.get(name) for name in ready.nodes or ready.inputs},
        caps=list(ready.caps),
        start_seconds=process.start_seconds,
        ping_seconds=answered,
        rss_bytes=rss,
        strays=process.talk.strays,
        stop_seconds=stopped,
        status=process.child.status if stopped is not None else None,
    )


def _rows(look: Look) -> Iterator[tuple[str, str]]:
    yield "command", shlex.join(look.command)
    yield "speaks", f"emit-node/{look.protocol} in {look.codec}, {look.sdk or 'no SDK named'}"
    for name, inputs in look.nodes.items():
        yield "node", clean(f"{name}: {_inputs(inputs)}")
    yield "concurrency", str(look.concurrency)
    yield "can", ", ".join(look.caps) or "nothing else"
    yield "ready in", f"{look.start_seconds * 1000:.0f} ms"
    if look.ping_seconds is not None:
        yield "ping", f"{look.ping_seconds * 1000:.2f} ms"
    yield "memory", f"{look.rss_bytes / 1e6:.0f} MB"
    strays = f"{look.strays} lines on stdout that are no frames; print to stderr"
    yield "stray output", paint(strays, "yellow") if look.strays else "none"
    if look.stop_seconds is None:
        yield "stops", paint("NOT at the end of its input: it has to be killed", "red")
    else:
        how = describe_status(look.status)
        how = how if look.status == 0 else paint(how, "red")
        yield "stops", f"{look.stop_seconds * 1000:.0f} ms after the end of its input: {how}"


def _inputs(inputs: Mapping[str, Any] | None) -> str:
    if inputs is None:
        return "takes the whole message"
    optional = f", and may have {', '.join(inputs['optional'])}" if inputs["optional"] else ""
    return f"needs {', '.join(inputs['required']) or 'nothing'}{optional}"
