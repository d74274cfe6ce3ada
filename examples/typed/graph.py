"""
Prices of orders, with types: a node in Python gives what one in Go takes, and `emit check` holds
one against the other before a message is sent.

    "tea 250 2" --> orders (Python) --> total (Go) --> receipt (Python) --> show
"""

import sys
from collections.abc import Iterator
from typing import TypedDict

from emit import Message, Router, ShellNode

router = Router()


class Order(TypedDict):
    sku: str
    cents: int
    count: int


@router.node(Order, entry_point=True, name="orders", validate=True)
def orders(msg: Message) -> Iterator[tuple[str, int, int]]:
    """Emit an order for each line."""
    for line in msg.text.splitlines():
        sku, cents, count = line.split()
        yield sku, int(cents), int(count)


@router.node({"sku": str, "total": int}, "orders", name="total")
class Total(ShellNode):
    file = "nodes"  # total.go, and types.go, which `emit types graph.router --lang go` has written


@router.node({"text": str}, "total", name="receipt")
def receipt(msg: Message) -> str:
    return f"{msg.sku}: {msg.total / 100:.2f}"


@router.node((), "receipt", name="show")
def show(msg: Message) -> None:
    print(msg.text)


if __name__ == "__main__":
    with router:
        router(text=sys.stdin.read())
