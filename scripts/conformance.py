"""``make conformance``: play every scenario against every SDK, in both codecs.

A language that is not installed is left out with a notice. With CI=true it is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts import launched, tools

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ("--require", "all", "--timeout", "30")


@dataclass(frozen=True)
class Sdk:
    """The program of one SDK, with the nodes of tests/conformance/README.md."""

    language: str
    file: str
    command: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    #: The launcher that makes nodes of plain files, if the language has one.
    launcher: str = ""
    #: File with the scenarios that are expected to fail, and the reason for each.
    known: str = ""

    @property
    def lack(self) -> str:
        """The tools that are missing, with the reasons; empty if none is."""
        wanted = tools.lacking(map(tools.named, self.tools))
        return tools.listed(wanted)

    @contextmanager
    def built(self) -> Iterator[tuple[str, ...]]:
        """Build the program if its language needs that, and provide its command."""
        if self.language != "go":
            yield (*self.command, self.file)
            return
        with tempfile.TemporaryDirectory() as folder:
            program = f"{folder}/conformance"
            package = ROOT / self.file
            subprocess.run(["go", "build", "-o", program, "."], cwd=package.parent, check=True)
            yield (program,)


SDKS = (
    Sdk(
        "python",
        "sdks/python/tests/conformance_app.py",
        (sys.executable,),
        launcher="runtimes/python/launch.py",
    ),
    Sdk(
        "ruby",
        "sdks/ruby/test/conformance_app.rb",
        ("ruby",),
        ("ruby", "ruby-msgpack"),
        launcher="runtimes/ruby/launch.rb",
    ),
    Sdk(
        "node",
        "sdks/node/test/conformance_app.mjs",
        ("node",),
        ("node",),
        launcher="runtimes/node/launch.cjs",
        known="sdks/node/test/conformance_failures.txt",
    ),
    Sdk(
        "go",
        "sdks/go/conformance/main.go",
        (),
        ("go",),
        known="sdks/go/conformance/failures.txt",
    ),
)


def main() -> int:
    """Test all SDKs, even after a failure. Return 1 if any failed."""
    passed = [check(sdk) for sdk in SDKS]
    return 0 if all(passed) else 1


def check(sdk: Sdk) -> bool:
    if sdk.lack:
        print(f"left out {sdk.language}: {sdk.lack}", flush=True)
        return os.environ.get("CI") != "true"
    with sdk.built() as command:
        passed = play(command, sdk.known).returncode == 0
    if sdk.launcher:
        print(f"the launcher of {sdk.language}:", flush=True)
        passed = launch(sdk).returncode == 0 and passed
    return passed


def launch(sdk: Sdk, *, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run ``emit conformance`` on the launcher of a language."""
    with tempfile.TemporaryDirectory() as folder:
        launched.write(sdk.language, Path(folder))
        files = ("--files", folder)
        return play((*sdk.command, sdk.launcher), options=files, capture=capture)


def play(
    command: tuple[str, ...],
    known: str = "",
    *,
    codec: str = "both",
    options: tuple[str, ...] = (),
    capture: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``emit conformance`` on a program, from the root of the checkout."""
    may_fail = ("--expected-failures", known) if known else ()
    options = (*OPTIONS, "--codec", codec, *may_fail, *options)
    return subprocess.run(
        [sys.executable, "-m", "emit.cli", "conformance", *options, "--", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "sdks" / "python")},
        stdin=subprocess.DEVNULL,
        capture_output=capture,
        text=True,
    )


if __name__ == "__main__":
    sys.exit(main())
