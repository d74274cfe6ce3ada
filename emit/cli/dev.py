"""``emit dev``: run a command or a sample message, and take edits over as they are saved."""

from __future__ import annotations

import argparse
import signal
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emit.cli.output import CommandError, UsageError

if TYPE_CHECKING:
    from emit.dev.service import Service

HELP = "Run a worker or a sample message, and take edits over as they are saved."

EXAMPLES = """
  emit dev app.router -- celery -A app worker -c 2
  emit dev app.router --ui -- python app.py
  emit dev app.router text='the rain'
  emit dev nodes/words.rb text='the rain'
"""


def configure(parser: Any) -> None:
    parser.takes_command = True
    add = parser.add_argument
    add("target", help="a router, such as app.router; one of its nodes, app.router:node; or a file")
    add("message", nargs="*", help="a sample message, which is run again after each edit")
    add(
        "--ui",
        nargs="?",
        const="127.0.0.1:8088",
        metavar="HOST:PORT",
        help="show the graph in a browser, as emit ui does (default: %(const)s)",
    )
    parser.epilog = f"a command may follow after --, such as a worker\n{parser.epilog}"


def run(arguments: argparse.Namespace) -> int:
    try:
        from emit.dev.session import Session
    except ImportError as error:
        raise CommandError(f"it needs {error.name}: pip install 'emit-graph[watch]'") from error
    from emit.dev.lines import Lines
    from emit.dev.service import Service, emit_command

    command, message = arguments.command, arguments.message
    path, _, node = arguments.target.partition(":")
    is_file = Path(path).exists()
    if command and (message or is_file):
        raise UsageError("give a router and a command, or a sample message, and not both")
    if is_file and arguments.ui:
        raise UsageError(f"--ui shows a router, and {path} is a file")
    is_sample = not command and (is_file or bool(node or message))
    lines = Lines(sys.stderr if is_sample else sys.stdout)  # the results are on stdout
    if command:
        words, name = command, Path(command[0]).name
    elif is_file or node:
        words, name = emit_command("call", arguments.target, *message), "call"
    elif message:
        words, name = emit_command("run", path, *message), "run"
    else:
        words, name = emit_command("run", path, "-", "--follow"), "run"
        lines.say("dev", "each line of stdin is a message, as JSON", "2")
    services = [Service(name, words, lines, heard=print_plain if is_sample else None)]
    if arguments.ui:
        page = Page(lines)
        shown = emit_command("ui", path, "--bind", arguments.ui)
        services.append(Service("ui", shown, lines, heard=page.take))
    signal.signal(signal.SIGTERM, _interrupt)
    session = Session(services, lines, None if is_file else path, is_sample=is_sample)
    try:
        session.run()
    except KeyboardInterrupt:
        pass  # the end of every session
    finally:
        _end(services)
    return 0


def _end(services: Sequence[Service]) -> None:
    """End the services. A second Ctrl-C kills them."""
    try:
        for service in services:
            # A terminal has sent Ctrl-C to all of its processes.
            service.wait() if sys.stdin.isatty() else service.stop()
    except KeyboardInterrupt:
        for service in services:
            service.kill()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def print_plain(line: str) -> None:
    """Print a result of a sample message."""
    print(line, flush=True)


class Page:
    """Opens the page whose address ``emit ui`` prints, once."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines
        self._is_open = False

    def take(self, line: str) -> None:
        """Take a line of its output."""
        self._lines.relay("ui", line)
        if line.startswith("http") and not self._is_open:
            self._is_open = True
            webbrowser.open(line)
