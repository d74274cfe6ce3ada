"""The places in which the files of other languages are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from emit import share
from tests.hosts import ROOT


def test_in_a_checkout() -> None:
    """Beside the package."""
    assert share.find("runtimes") == ROOT / "runtimes"
    assert share.find("sdks/python") == ROOT / "sdks" / "python"


def test_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMIT_SHARE wins, relative to the current directory."""
    (tmp_path / "mine" / "runtimes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMIT_SHARE", "mine")
    assert share.find("runtimes") == tmp_path / "mine" / "runtimes"


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says where it was looked for, and what to set."""
    monkeypatch.setenv("EMIT_SHARE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/sdks; .*EMIT_SHARE"):
        share.find("sdks")
