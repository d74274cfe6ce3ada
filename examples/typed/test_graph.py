"""The whole graph, with the real program in Go."""

from collections.abc import Callable

from graph import router

from emit import Router
from emit.testing import Drive


def test_receipts(emit_drive: Callable[[Router], Drive]) -> None:
    graph = emit_drive(router)
    graph(text="tea 250 2\nmilk 99 1")
    assert graph.passed("orders", "total")[0] == {"sku": "tea", "cents": 250, "count": 2}
    assert graph.results("receipt") == [{"text": "tea: 5.00"}, {"text": "milk: 0.99"}]
