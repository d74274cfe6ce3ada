"""
The command line: ``emit COMMAND ...``, and ``emit_digraph``.

Each command has a file of its name. The file has ``HELP`` (one line), ``EXAMPLES`` (shown below the
help), ``configure(parser)`` and ``run(arguments) -> exit code``. It is imported only when its
command is given: ``emit --help`` and every command have to start quickly.

Exit codes: 0 success, 1 the handler or a check failed, 2 the node or router could not be found or
started, 64 a wrong command line, 130 ended by Ctrl-C. Results go to stdout, and everything else
to stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

import emit
from emit import share
from emit.cli.output import INTERRUPTED, UNHEARD, USAGE, CommandError, OutputFailed, take_streams
from emit.errors import GraphError
from emit.text import nearest

#: Every command with its purpose, in the order in which ``emit --help`` lists them.
COMMANDS = {
    "run": "feed messages to a router's entry points",
    "call": "give one message to one node",
    "dev": "run a worker or a message, and take edits over when saved",
    "types": "write the types of messages and results for another language",
    "record": "write messages and results of a running node to a file",
    "replay": "give recorded messages to their node again",
    "test": "run recorded cases, and each node's own tests",
    "new": "write a first version of a node, or of a project",
    "graph": "show a router's graph, as text or as a picture",
    "check": "find what is wrong with a graph, for people and for CI",
    "contract": "write what the nodes of a graph give and take, for emit check",
    "doctor": "test everything that Emit can use on this machine",
    "top": "watch all nodes with programs on this machine",
    "reload": "have the present version of programs take over",
    "tap": "watch messages as they pass a node or an edge",
    "metrics": "answer Prometheus for all Emit processes on this machine",
    "ui": "show the running graph in a browser",
    "inspect": "show what a node's program says of itself, and if it stops",
    "bench": "measure the latency and throughput of a node's program",
    "conformance": "test whether a program speaks the protocol",
    "dead": "list, show, replay or drop dead letters",
    "host": "run the programs of nodes for all processes of this user",
    "completion": "print a script that completes these commands in a shell",
    "digraph": "print a router's graph for graphviz",
}

EPILOG = "emit COMMAND --help prints the options of a command, and examples"


class Parser(argparse.ArgumentParser):
    """
    An argument parser that ends with the exit code of usage errors.

    Attributes:
        takes_command: What follows ``--`` is another command, in the result's ``command``.
    """

    takes_command = False

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the words of a command line."""
        words = list(args or ())
        end = words.index("--") if self.takes_command and "--" in words else len(words)
        arguments: Any = super().parse_args(words[:end], namespace)
        if self.takes_command:
            arguments.command = words[end + 1 :]
        return arguments

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``emit COMMAND ...`` and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        return run_command(words[0], words[1:])
    return guarded("emit", lambda: _answer(words))


def _answer(words: Sequence[str]) -> int:
    """Answer a command line that names no command."""
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        return USAGE
    if not words[0].startswith("-"):
        near = nearest(words[0], COMMANDS)
        parser.error(f'there is no command "{words[0]}"{near}; emit --help lists them')
    parser.parse_args(words[:1])  # exits: --help, --version, or an unknown option
    return USAGE


def run_command(name: str, words: Sequence[str]) -> int:
    """Run one command with the rest of the command line, and return its exit code."""
    return guarded(f"emit {name}", lambda: _run(name, words))


def guarded(title: str, command: Callable[[], int]) -> int:
    """
    Run a command and return its exit code. A known error becomes a line on stderr, which begins
    with *title*.
    """
    take_streams()
    try:
        try:
            return command()
        finally:  # --help raises SystemExit, and has printed something, too
            sys.stdout.flush()
    except (CommandError, GraphError) as error:
        print(f"{title}: {error}", file=sys.stderr)
        return getattr(error, "code", 2)
    except OutputFailed as failed:
        if failed.code != UNHEARD:  # the reader has seen enough, as in "| head"
            print(f"{title}: {failed}", file=sys.stderr)
        return failed.code
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(name: str, words: Sequence[str]) -> int:
    command: Any = import_module(f"emit.cli.{name}")
    code: int = command.run(make_parser(name).parse_args(words))
    return code


def make_parser(name: str) -> Parser:
    """Return the parser of one command."""
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
        description=f"Streaming graphs whose nodes are written in any language:\n{listed}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"emit {emit.__version__}")
    parser.add_argument(
        "--share",
        action="version",
        version=str(share.root()),
        help=argparse.SUPPRESS,  # only for the commands that `emit new` prints
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser
