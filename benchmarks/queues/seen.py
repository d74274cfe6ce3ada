"""The same two nodes for each observer of observe_celery.py: split a document, take each word."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from emit import CeleryRouter
from emit.celery import configure
from emit.observe import metrics

#: Gets a byte for each message that is done.
DONE = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

app = Celery("seen", broker=os.environ["BENCH_REDIS"])
configure(app)
app.conf.task_ignore_result = True


def graph(name: str) -> tuple[CeleryRouter, Any]:
    """Return a router of its own, and the node that begins."""
    router = CeleryRouter(celery_task=app.task)

    @router.node(("word",), name=f"seen.{name}_words")
    def words(msg: Any) -> Any:
        yield from msg.document.split()

    @router.node((), f"seen.{name}_words", name=f"seen.{name}_take")
    def take(msg: Any) -> None:
        os.write(DONE, b".")

    return router, words


def with_metrics(router: CeleryRouter) -> None:
    metrics.instrument(router)


OBSERVERS = {"nobody": lambda router: None, "metrics": with_metrics}
STARTS = {}
for name, observe in OBSERVERS.items():
    router, STARTS[name] = graph(name)
    observe(router)
