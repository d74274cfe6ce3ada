"""``emit graph app.router``: show a router's graph, as text or as a picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from emit.cli.output import CommandError, UsageError
from emit.cli.target import load_router
from emit.drawing.formats import dot, mermaid, text
from emit.drawing.outline import Outline, outline
from emit.host.language.missing import GRAPHVIZ, describe_install
from emit.host.language.runtime import runtimes

HELP = "Show the graph of a router, as a tree of text or as a picture."

EXAMPLES = """
  emit graph app.router
  emit graph app.router --output graph.svg
  emit graph app.router --format mermaid >> README.md
  emit graph app.router --format json | jq -r '.nodes[] | select(.reached | not) | .name'
"""

FORMATS = ("text", "dot", "svg", "png", "mermaid", "json")

#: The formats of file suffixes that are not the name of a format.
SUFFIXES = {"txt": "text", "gv": "dot", "mmd": "mermaid"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("router", help="dotted path of the router, such as app.router")
    parser.add_argument(
        "-f",
        "--format",
        choices=FORMATS,
        help="what to write (default: by the suffix of --output, else text)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to this file")


def run(arguments: argparse.Namespace) -> int:
    wanted = arguments.format or _format_of(arguments.output)
    data = render(outline(load_router(arguments.router)), wanted)
    if arguments.output is not None:
        arguments.output.write_bytes(data)
    elif wanted == "png" and sys.stdout.isatty():
        raise UsageError("a png is nothing for a terminal: give it a file with --output graph.png")
    else:
        sys.stdout.buffer.write(data)
    return 0


def render(seen: Outline, wanted: str) -> bytes:
    """
    Return a graph in one of FORMATS.

    Raises:
        CommandError: svg or png is wanted, and graphviz or its Python package is missing.
        GraphError: A picture is wanted, and a runtime.toml can't be used.
    """
    if wanted in ("text", "json"):
        return f"{text(seen) if wanted == 'text' else _json(seen)}\n".encode()
    colours = {name: (it.fill, it.ink) for name, it in runtimes().items() if it.fill}
    if wanted in ("svg", "png"):
        return _picture(dot(seen, colours), wanted)
    return f"{(dot if wanted == 'dot' else mermaid)(seen, colours)}\n".encode()


def _json(seen: Outline) -> str:
    return json.dumps(seen.as_dict(), ensure_ascii=False, indent=2)


def _format_of(output: Path | None) -> str:
    ending = output.suffix[1:] if output is not None else "text"
    wanted = SUFFIXES.get(ending, ending)
    if wanted not in FORMATS:
        raise UsageError(f"{output}: say what to write, as in --format svg ({', '.join(FORMATS)})")
    return wanted


def _picture(source: str, wanted: str) -> bytes:
    try:
        import graphviz
    except ImportError as error:
        raise CommandError(
            f"--format {wanted} needs the Python package graphviz: pip install 'emit-graph[cli]'"
        ) from error
    try:
        data: bytes = graphviz.Source(source).pipe(format=wanted)
    except graphviz.ExecutableNotFound as error:
        raise CommandError(
            f"--format {wanted} needs the program dot of graphviz, which is not on the PATH: "
            f"{describe_install(GRAPHVIZ)}"
        ) from error
    return data
