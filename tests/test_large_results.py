"""A result that no frame holds: every SDK says the same, and nothing that can't be done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emit import Message, ShellNode
from emit.errors import FrameTooLarge, RemoteError
from tests.conftest import require

pytestmark = pytest.mark.slow

#: A plain file in each language, with a function that emits a text of so many characters.
FILES = {
    "python": (".py", "def large(msg):\n    return 'x' * msg.n\n"),
    "ruby": (".rb", "def large(msg)\n  'x' * msg[:n]\nend\n"),
    "node": (".mjs", "export const large = ({ n }) => 'x'.repeat(n);\n"),
    "go": (
        ".go",
        'package nodes\n\nimport "strings"\n\ntype message struct{ N int }\n\n'
        'func large(in message) (string, error) { return strings.Repeat("x", in.N), nil }\n',
    ),
}

MOST = (1 << 24) - 1


@pytest.mark.parametrize("language", FILES)
def test_what_can_be_done(language: str, tmp_path: Path) -> None:
    """The error advises to raise max_frame, or to pass a path if max_frame is at its maximum."""
    require(*({language} - {"python"}))
    suffix, code = FILES[language]
    (tmp_path / "large").with_suffix(suffix).write_text(code)
    for limit, advice in ((2048, "raise max_frame of the node"), (MOST, "pass a path")):
        with_limit = {"file": str((tmp_path / "large").with_suffix(suffix)), "max_frame": limit}
        node = type("Large", (ShellNode,), with_limit)()
        try:
            with pytest.raises(RemoteError) as caught:
                list(node(Message(n=limit)))
        finally:
            node.close()
        assert caught.value.type.split("::")[-1] == "FrameTooLarge"
        assert re.fullmatch(
            rf"large emitted a result of \d+ bytes; a frame holds at most {limit}: "
            rf"emit less at once, or {advice}",
            caught.value.message,
        )


@pytest.mark.parametrize(
    ("limit", "outgoing", "advice"),
    [
        (2048, True, "send less at once, or raise max_frame of the node"),
        (2048, False, "emit less at once, or raise max_frame of the node"),
        (MOST, True, "send less at once, or pass a path"),
        (MOST, False, "emit less at once, or pass a path"),
    ],
)
def test_what_the_host_says(limit: int, outgoing: bool, advice: str) -> None:
    """It gives the same advice, for messages too."""
    error = FrameTooLarge(node="n", size=limit + 1, limit=limit, outgoing=outgoing)
    assert str(error).endswith(f"is over max_frame = {limit} bytes: {advice}")
