"""The names that may have been meant by one that is not there."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(text: str, names: Iterable[str]) -> str:
    """The names that may have been meant, as `` (nearest: a, b)``; empty where none is near."""
    # Imported here, since only a wrong name needs it.
    from difflib import get_close_matches

    others = list(names)
    near = get_close_matches(text, others, n=2, cutoff=0.5)
    # A short name is far from a long pattern that was meant for it, and the other way round.
    near = near or [name for name in others if name in text or text in name][:2]
    return f" (nearest: {', '.join(near)})" if near else ""
