"""The names that may have been meant by one that is not there."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(text: str, names: Iterable[str]) -> str:
    """The names that may have been meant, as `` (nearest: a, b)``; empty where none is near."""
    others = list(names)
    near = _close(text, others, count=2, share=0.5)
    # A short name is far from a long pattern that was meant for it, and the other way round.
    near = near or [name for name in others if name in text or text in name][:2]
    return f" (nearest: {', '.join(near)})" if near else ""


def misspelt(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Those of *names* that are not known, but are within a letter or two of one that is."""
    there = list(known)
    near = {name: _close(name, there, count=1, share=0.85) for name in names if name not in there}
    return {name: meant[0] for name, meant in near.items() if meant}


def _close(text: str, names: list[str], *, count: int, share: float) -> list[str]:
    # Imported here, since only a wrong name needs it.
    from difflib import get_close_matches

    return get_close_matches(text, names, n=count, cutoff=share)
