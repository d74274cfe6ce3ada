"""The time of a test that drives a graph in three languages, after the first one."""

from __future__ import annotations

import time
from typing import Any

from measure import ROOT, machine, rounds, table

from emit import CeleryRouter, Router, ShellNode
from emit.testing import drive

ROUNDS = 15
WORDS = ROOT / "examples" / "polyglot"
TEXT = "the rain in spain falls mainly on the plain"


def main() -> None:
    from celery import Celery

    app = Celery("drive", broker="redis://localhost:1")
    routers = {"Router": graph(Router()), "CeleryRouter": graph(CeleryRouter(app.task))}
    taken = rounds(
        {name: lambda router=router: test(router) for name, router in routers.items()}, ROUNDS
    )  # type: ignore[misc]
    print(
        f"{machine()}\n{len(TEXT.split())} words through Python, Ruby and Node; at most 100 ms:\n"
    )
    table(
        ["router", "best", "median"],
        [
            (name, f"{min(times):.1f} ms", f"{sorted(times)[ROUNDS // 2]:.1f} ms")
            for name, times in taken.items()
        ],
    )
    for router in routers.values():
        router.close()


def graph(router: Any) -> Any:
    router.node(("word",), entry_point=True, name="words")(split)
    for name, hears, file in (("ruby", "words", "words.rb"), ("node", "ruby", "words.mjs")):
        program = type(name.title(), (ShellNode,), {"file": WORDS / f"{file}:letters"})
        router.node(("word", "letters"), hears, name=name, pass_through=False)(fitting(program))
    return router


def fitting(program: Any) -> Any:
    """Give the program the word alone."""

    class Fitting(program):  # type: ignore[misc]
        def __call__(self, msg: Any) -> Any:
            yield from super().__call__({"word": msg.word})

    return Fitting


def split(msg: Any) -> Any:
    yield from msg.text.split()


def test(router: Any) -> float:
    began = time.perf_counter()
    with drive(router) as running:
        running(text=TEXT)
    assert len(running.results("node")) == len(TEXT.split()), running.dead
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
