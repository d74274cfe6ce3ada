"""The example whose nodes in Node and Go continue the trace of their message."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "tracing"


@pytest.mark.requires("node", "go")
@pytest.mark.usefixtures("builds")
def test_the_trace_goes_on_in_other_languages(tmp_path: Path) -> None:
    """The spans of the SDKs for Node and Go are below the run of their message, in one trace."""
    readme = (EXAMPLE / "README.md").read_text()
    block = re.search(r"^\$ ./run\n(.*?)^```", readme, re.M | re.S)
    assert block is not None
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(EXAMPLE / "run")],
        env={**os.environ, "PATH": path, "SPANS": str(tmp_path / "spans")},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == block[1]
    assert len({line.split('"')[3] for line in (tmp_path / "spans").read_text().splitlines()}) == 1
