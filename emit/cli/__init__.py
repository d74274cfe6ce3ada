"""The command line: ``emit``, one file per command, and ``emit_digraph``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import emit
from emit.cli import digraph


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``emit COMMAND ...``. Returns its exit code; 64 is a wrong command line."""
    parser = argparse.ArgumentParser(prog="emit", description="Streaming graphs in any language.")
    parser.add_argument("--version", action="version", version=f"emit {emit.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("digraph", help="print a router's graph for graphviz", add_help=False)
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "digraph":
        return digraph.main(rest)
    parser.print_help(sys.stderr)
    return 64
