"""A router in a notebook: its graph as a picture if graphviz is installed, and as text."""

from __future__ import annotations

from contextlib import suppress

from emit.cli.graph import render
from emit.cli.output import CommandError
from emit.drawing.outline import outline
from emit.router import Router


def bundle(router: Router) -> dict[str, str]:
    """Return the graph by MIME type. A terminal shows the text, a notebook the picture."""
    seen = outline(router)
    shown = {"text/plain": render(seen, "text").decode().rstrip()}
    with suppress(CommandError):  # without graphviz the text is shown
        shown["image/svg+xml"] = render(seen, "svg").decode()
    return shown
