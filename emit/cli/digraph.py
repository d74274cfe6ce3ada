"""``emit digraph app.router``, and ``emit_digraph``: print the graph in the DOT language."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from emit.cli import guarded
from emit.cli.target import load_router
from emit.digraph import make_digraph

HELP = "Print the graph of a router in DOT, the language of graphviz."

EXAMPLES = """
  emit digraph app.router
  emit digraph app.router | dot -T png -o graph.png
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("router", help="dotted path of the router, such as app.router")
    parser.add_argument("--name", default="router", help="name of the graph (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    print(make_digraph(load_router(arguments.router), arguments.name))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``emit_digraph``, the command's name since 2012, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="emit_digraph",
        description=HELP,
        epilog="example: emit_digraph app.router | dot -T png -o graph.png",
    )
    configure(parser)
    arguments = parser.parse_args(argv)
    return guarded(parser.prog, lambda: run(arguments))
