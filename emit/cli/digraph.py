"""``emit_digraph app.router``: the graph in the DOT language."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from emit.cli.target import TargetError, load_router
from emit.digraph import make_digraph


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code: 0, or 2 where there is no such router."""
    parser = argparse.ArgumentParser(
        prog="emit_digraph",
        description="Print the graph of a router in the DOT language of graphviz.",
        epilog="example: emit_digraph app.router | dot -T png -o graph.png",
    )
    parser.add_argument("router", help="its dotted path, such as app.router")
    parser.add_argument("--name", default="router", help="what to call the graph (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        router = load_router(arguments.router)
    except TargetError as error:
        print(f"emit_digraph: {error}", file=sys.stderr)
        return 2
    print(make_digraph(router, arguments.name))
    return 0
