"""
The command line: ``emit COMMAND ...``, and ``emit_digraph``.

One file per command, with the command's name. Each has ``HELP`` (a line), ``EXAMPLES`` (shown
below its help), ``configure(parser)`` and ``run(arguments) -> exit code``, and is imported only
when its command is given, so that ``emit --help`` and each command start quickly.

Exit codes: 0 fine, 1 the handler or a check failed, 2 the node or router could not be started or
found, 64 a wrong command line, 130 ended by Ctrl-C. Results go to stdout, everything else
to stderr.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

import emit
from emit import share
from emit.cli.errors import INTERRUPTED, UNHEARD, USAGE, CommandError
from emit.errors import GraphError

#: Every command and what it is for, in the order in which ``emit --help`` lists them.
COMMANDS = {
    "run": "feed messages to a router's entry points",
    "call": "give one message to one node",
    "new": "write the beginning of a node, or of a project",
    "graph": "show a router's graph, as text or as a picture",
    "check": "find what is wrong with a graph, for people and for CI",
    "doctor": "try what Emit can use on this machine",
    "top": "watch all nodes with programs on this machine",
    "inspect": "look at a node's program: what it says, whether it stops",
    "bench": "measure a node's program: latency and throughput",
    "conformance": "test whether a program speaks the protocol of nodes",
    "dead": "list, show, replay or drop dead letters",
    "host": "run the programs of nodes for all processes of this user",
    "completion": "print what completes these commands in a shell",
    "digraph": "print a router's graph for graphviz",
}

EPILOG = "emit COMMAND --help tells more of a command, with examples"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors have the exit code of usage errors."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``emit COMMAND ...``. Returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        return USAGE
    if words[0] not in COMMANDS:
        parser.parse_args(words[:1])  # --help, --version, or an unknown command: it exits
    return run_command(words[0], words[1:])


def run_command(name: str, words: Sequence[str]) -> int:
    """Run one command with the rest of the command line."""
    return guarded(f"emit {name}", lambda: _run(name, words))


def guarded(title: str, command: Callable[[], int]) -> int:
    """Run a command and say on stderr, under its *title*, what is wrong. Returns its exit code."""
    if sys.stdout is None:  # it was closed, as by ">&-"
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = command()
        sys.stdout.flush()
    except (CommandError, GraphError) as error:
        print(f"{title}: {error}", file=sys.stderr)
        return getattr(error, "code", 2)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        return _no_output(title, error)
    return code


def _no_output(title: str, error: OSError) -> int:
    """Nobody takes our output: who read it has seen enough, as in "| head", or the disk is full."""
    # What is still held would be written at the end, and Python would complain once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return UNHEARD
    print(f"{title}: {error}", file=sys.stderr)
    return 1


def _run(name: str, words: Sequence[str]) -> int:
    command: Any = import_module(f"emit.cli.{name}")
    code: int = command.run(make_parser(name).parse_args(words))
    return code


def make_parser(name: str) -> Parser:
    """The parser of one command."""
    command: Any = import_module(f"emit.cli.{name}")
    parser = Parser(
        prog=f"emit {name}",
        description=command.HELP,
        epilog=f"examples:{command.EXAMPLES.rstrip()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.configure(parser)
    return parser


def _parser() -> Parser:
    listed = "\n".join(f"  {name:<12} {what}" for name, what in COMMANDS.items())
    parser = Parser(
        prog="emit",
        usage="emit COMMAND ...",
        description=f"Streaming graphs whose nodes are written in any language.\n\n{listed}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"emit {emit.__version__}")
    parser.add_argument(
        "--share",
        action="version",
        version=str(share.root()),
        help=argparse.SUPPRESS,  # for the lines that `emit new` prints
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser
