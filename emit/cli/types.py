"""``emit types app.router``: write the types of messages and results for another language."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from emit.cli.check import survey
from emit.cli.target import load_router
from emit.typed.contract import make_contract
from emit.typed.documents import FORMATS
from emit.typed.languages import LANGUAGES, write_types

HELP = "Write the types of the messages and results of a router's nodes, or a document of them."

EXAMPLES = """
  emit types app.router --lang ts > types.ts
  emit types app.router --lang go --output nodes/types.go
  emit types app.router --format markdown >> README.md
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("router", help="dotted path of the router, such as app.router")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--lang", choices=LANGUAGES, help="the language of the types")
    what.add_argument("--format", choices=FORMATS, help="write a document in this form instead")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to this file")


def run(arguments: argparse.Namespace) -> int:
    # A program may not build before it has the types that are about to be written.
    silent: list[str] = []
    contract = make_contract(*survey(load_router(arguments.router), silent))
    for why in silent:
        print(f"emit types: without what the program itself tells: {why}", file=sys.stderr)
    if arguments.lang:
        command = f"emit types {arguments.router} --lang {arguments.lang}"
        text = write_types(contract, arguments.lang, command)
    else:
        text = FORMATS[arguments.format](contract, arguments.router) + "\n"
    if arguments.output is not None:
        arguments.output.write_text(text, "utf-8")
    else:
        print(text, end="")
    return 0
