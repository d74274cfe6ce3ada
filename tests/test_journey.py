"""The ways of messages through both halves, held against the page that tells them."""

from __future__ import annotations

import pytest

from scripts import figures, journeys

pytestmark = pytest.mark.requires("ruby")


def test_ways() -> None:
    """A message, a batch and a Celery task pass the files that the page has, in its order."""
    page = journeys.PAGE.read_text("utf-8")
    block = journeys.block(page)
    should_be = (
        f"{journeys.PAGE} should have this block (python -m scripts.journeys write):\n{block}"
    )
    assert journeys.written(page) == block, should_be
    untold = [row for row in block.splitlines() if row.endswith(f"| {journeys.UNTOLD} |")]
    assert not untold, "say what happens there"


def test_every_figure_has_a_limit() -> None:
    """Each figure has a limit and each limit a figure: an unmeasured one promises nothing."""
    names = [figure.name for figure in (*figures.of_the_source(), *figures.of_the_ways())]
    assert names == list(figures.LIMITS)
