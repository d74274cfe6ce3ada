"""The SDKs conform: every scenario and value vector, in both codecs, against real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require

ROOT = Path(__file__).resolve().parent.parent

#: Each SDK's program, how it is started, and the tools that it needs.
SDKS = {
    "python": ("sdks/python/tests/conformance_app.py", [sys.executable], []),
    "ruby": ("sdks/ruby/test/conformance_app.rb", ["ruby"], ["ruby", "ruby-msgpack"]),
    "node": ("sdks/node/test/conformance_app.mjs", ["node"], ["node"]),
}


def conformance(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``emit conformance``."""
    main = "import sys; from emit.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", main, "conformance", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "sdks/python", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("language", SDKS)
def test_sdk(language: str) -> None:
    """All features hold."""
    path, command, tools = SDKS[language]
    if not (ROOT / path).exists():
        pytest.skip(f"there is no {path} yet")
    require(*tools)
    done = conformance(
        "--require", "all", "--codec", "both", "--timeout", "30", "--", *command, path
    )
    assert done.returncode == 0, done.stdout + done.stderr
