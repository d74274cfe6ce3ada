"""The SDKs conform: every scenario and value vector, in both codecs, against real processes."""

from __future__ import annotations

import os
import re
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


#: The nodes of core, for the SDK on the page of the protocol.
CORE = """
import subprocess
import time


def echo(msg):
    yield msg["value"]


def none(msg):
    return ()


def count(msg):
    return range(msg["n"])


def text(msg):
    yield "x" * msg["n"]


def slow(msg):
    time.sleep(msg["seconds"])
    yield msg["value"]


def fail(msg):
    raise ValueError(msg["text"])


def partial(msg):
    yield from range(msg["n"])
    raise ValueError(msg["text"])


def prints(msg):
    print(msg["text"], end="", flush=True)
    subprocess.run(["printf", "%s", msg["text"]], check=True)
    yield "printed"


handlers = [echo, none, count, text, slow, fail, partial]
serve({"print": prints, **{handler.__name__: handler for handler in handlers}})
"""


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


def test_the_hundred_lines(tmp_path: Path) -> None:
    """The SDK on the page of the protocol has all of core."""
    page = (ROOT / "runtimes" / "PROTOCOL.md").read_text("utf-8")
    sdk = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-1]
    program = tmp_path / "tiny.py"
    program.write_text(sdk + CORE)
    done = conformance("--only", "core", "--timeout", "30", "--", sys.executable, str(program))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Conforms to emit-node/1: core\n")


@pytest.mark.requires("perl")
def test_a_third_language() -> None:
    """The example of a language that Emit does not know has what its README says."""
    features = ("core", "plain", "values", "native", "limits", "stdin")
    options = ("--only", *features, "--require", *features, "--timeout", "30")
    done = conformance(*options, "--", "perl", "examples/third-party/conformance_app.pl")
    assert done.returncode == 0, done.stdout + done.stderr
