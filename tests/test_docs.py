"""Every snippet of the README and of docs/ runs, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import emit
from emit import errors
from tests.conftest import require

pytestmark = pytest.mark.usefixtures("builds")

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


#: All are errors but that of a Celery worker which runs as root, as in a container.
WARNINGS = "error,ignore:You're running the worker"


class Block(NamedTuple):
    """One fenced block: its language, its ``file=`` if any, its text, and what it should print."""

    language: str
    file: str
    body: str
    output: str | None


def blocks(page: Path) -> Iterator[Block]:
    """A python block is a script; with ``file=`` it is only written; an output may follow it."""
    found = list(FENCE.finditer(page.read_text("utf-8")))
    for number, match in enumerate(found):
        language, _, rest = match["info"].partition(" ")
        after = found[number + 1] if number + 1 < len(found) else None
        is_output = after is not None and after["info"] == ""
        gap = page.read_text("utf-8")[match.end() : after.start()] if after else "-"
        output = after["body"] if after and is_output and not gap.strip() else None
        yield Block(language, rest.removeprefix("file="), match["body"], output)


def environment(more: dict[str, str]) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "sdks" / "python")]
    # The interpreter that runs the tests, and the commands installed beside it, come first.
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    path = os.pathsep.join(paths)
    own = {"PATH": commands, "PYTHONPATH": path, "PYTHONWARNINGS": WARNINGS}
    # So that `emit top` sees no host of what runs beside this page.
    own["XDG_RUNTIME_DIR"] = str(ROOT / "nowhere")
    return {**os.environ, **own, **more}


def run(command: list[str] | str, folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The page's files are written, its scripts and commands run in order, the outputs agree."""
    env, text = {}, page.read_text("utf-8")
    if "EMIT_REDIS" in text:
        env["EMIT_REDIS"] = request.getfixturevalue("redis")
    if "EMIT_RABBITMQ" in text:
        env["EMIT_RABBITMQ"] = request.getfixturevalue("rabbitmq").url()
    folder = request.getfixturevalue("short_folder") if "$PWD/run/host.sock" in text else tmp_path
    for block in blocks(page):
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.body)
        elif block.language == "python":
            require(*tools_of(block.body))
            printed = run([sys.executable, "-c", block.body], folder, env)
            assert block.output is None or printed == block.output
        elif block.language == "console":
            require(*tools_of(block.body))
            console(block.body, folder, env)


def tools_of(script: str) -> Iterator[str]:
    """The languages that a script or a shell starts, by command or by the suffixes of files."""
    for tool, suffix in (("ruby", ".rb"), ("node", ".mjs"), ("go", ".go"), ("perl", ".pl")):
        if f'["{tool}"' in script or re.search(rf"\{suffix}\b", script):
            yield tool


def console(body: str, folder: Path, env: dict[str, str]) -> None:
    """Lines that begin with ``$`` are run; what stands below each is what it prints."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        assert run(command, folder, env) == expected


def test_links() -> None:
    """Every relative link of a page leads to a file, and to one that can be read in a checkout."""
    others = [*ROOT.glob("*.md"), *ROOT.glob("runtimes/*.md"), ROOT / "tests/conformance/README.md"]
    others += [*ROOT.glob("sdks/*/README.md"), *ROOT.glob("examples/*/README.md")]
    for page in {*PAGES, *others}:
        for target in re.findall(r"\]\(([^)#]+)", FENCE.sub("", page.read_text("utf-8"))):
            assert target.startswith("http") or (page.parent / target).exists(), (page, target)
            # These two are filled in when the pages are built.
            assert Path(target).name not in ("api.md", "protocol.md"), (page, target)


def test_the_pages_are_built(tmp_path: Path) -> None:
    """``make docs`` has nothing to warn of, and every public name is on the page of the API."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    trees, pages = str(tmp_path / "trees"), tmp_path / "pages"
    of_libraries = {"PYTHONWARNINGS": "default"}
    run([*command, "-d", trees, str(ROOT / "docs"), str(pages)], ROOT, of_libraries)
    reference = (pages / "api.html").read_text("utf-8")
    for name in {*emit.__all__, *errors.__all__} - {"__version__"}:
        assert re.search(rf'id="emit\.[\w.]*\b{name}"', reference), name
