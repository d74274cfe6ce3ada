"""docs/knobs.md lists every setting, with the default that it has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from emit import ShellNode
from emit.host.settings import Settings
from emit.host.system.program import Limits

PAGE = Path(__file__).resolve().parent.parent / "docs" / "knobs.md"
ROWS = dict(re.findall(r"^\| `(\w+)` \|\s*([^|]*?)\s*\|", PAGE.read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("field", [*fields(Settings), *fields(Limits)], ids=lambda f: f.name)
def test_default(field: Any) -> None:
    """The page has the setting's default; the number of processes depends on the machine."""
    if field.name == "size":
        assert ROWS["size"] == "cores, at most `4`"
    else:
        assert ROWS[field.name] == f"`{field.default!r}`".replace(repr(Limits()), "Limits()")


def test_all() -> None:
    """The page lists exactly the options that a ShellNode takes."""
    limits = {field.name for field in fields(Limits)}
    assert set(ShellNode.options) == set(ROWS) - limits
