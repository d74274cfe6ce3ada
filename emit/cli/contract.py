"""``emit contract app.router``: write what the nodes of a graph give and take."""

from __future__ import annotations

import argparse
import json

from emit.cli.check import survey
from emit.cli.target import load_router
from emit.typed.contract import make_contract

HELP = "Write the fields and types that the nodes of a router give and take, as JSON."

EXAMPLES = """
  emit contract app.router > contract.json
  emit check app.router --against contract.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("router", help="dotted path of the router, such as app.router")


def run(arguments: argparse.Namespace) -> int:
    contract = make_contract(*survey(load_router(arguments.router)))
    print(json.dumps(contract, ensure_ascii=False, indent=2))
    return 0
