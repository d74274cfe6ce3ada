"""The cost of ``validate=True``: a node with a result of two fields, with and without it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from emit import Router

ROUNDS, CALLS = 15, 20_000


def main() -> None:
    plain, validated = fit_of(validate=False), fit_of(validate=True)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(microseconds(plain))
        theirs.append(microseconds(validated))
    before, after = statistics.median(ours), statistics.median(theirs)
    print(f"a result of two fields: {before:.2f} us; validated: {after:.2f} us")
    print(f"validate=True adds {after - before:.2f} us (at most 1)")


def fit_of(*, validate: bool) -> Callable[[Any], Any]:
    router = Router()
    router.node({"word": str, "count": int}, name="n", validate=validate)(len)
    fit: Callable[[Any], Any] = router._nodes["n"].fit
    return fit


def microseconds(fit: Callable[[Any], Any]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        fit(("rain", 2))
    return (time.perf_counter() - began) / CALLS * 1e6


if __name__ == "__main__":
    main()
