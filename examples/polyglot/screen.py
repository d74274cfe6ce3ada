"""The demo's output: a bar while it runs, and a table at the end."""

import os
import sys
from collections import Counter

WIDTH = 30


def progress(share: float) -> None:
    """Draw a bar on stderr, if stderr is a terminal. *share* is from 0 to 1."""
    if not sys.stderr.isatty():
        return
    bar = "#" * round(share * WIDTH)
    end = "\r\033[K" if share >= 1 else ""  # at the end, make room for the table
    print(f"\r[{bar:<{WIDTH}}] {share:4.0%}{end}", end="", file=sys.stderr, flush=True)


def table(counts: Counter[str], rows: int = 10) -> str:
    """Return a table of the most frequent words. Equal counts are in alphabetical order."""
    first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:rows]
    if not first:
        return "  (no words)"
    wide = max(len(word) for word, _ in first)
    return "\n".join(
        f"  {word:<{wide}}  {count:>10,}  {coloured('#' * (WIDTH * count // first[0][1]))}".rstrip()
        for word, count in first
    )


def coloured(text: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\033[32m{text}\033[0m"
