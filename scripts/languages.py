"""Lint and test the other languages: ``python -m scripts.languages lint`` or ``test``.

A missing folder has nothing to check. A language that is not installed is left out with a notice.
With CI=true it is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts import tools

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("sdks", "runtimes", "examples")
#: Folders without sources: a template is not valid code before {{name}} is replaced.
PASSED_OVER = {"node_modules", "template"}
RUN_TESTS = 'Dir["./test/**/*_test.rb"].sort.each { |file| require file }'


@dataclass(frozen=True)
class Command:
    """A command, its folder, and the only output that counts as success (None: any)."""

    argv: tuple[str, ...]
    folder: Path = ROOT
    output: str | None = None


def main(action: str) -> int:
    """Run every command of *action*, even after a failure. Return 1 if any failed."""
    passed = [check(language, commands[action]) for language, commands in LANGUAGES.items()]
    return 0 if all(passed) else 1


def check(language: str, commands: Callable[[], Iterator[Command]]) -> bool:
    todo = list(commands())
    if not todo:
        return True
    if reason := tools.lack(tools.named(language)):
        print(f"left out {language}: {reason}", flush=True)
        return os.environ.get("CI") != "true"
    passed = [run(command) for command in todo]
    return all(passed)


def run(command: Command) -> bool:
    if command.output is None:
        print(f"{command.folder.relative_to(ROOT)}: {' '.join(command.argv[:3])}", flush=True)
        return subprocess.run(command.argv, cwd=command.folder).returncode == 0
    result = subprocess.run(
        command.argv,
        cwd=command.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode == 0 and result.stdout.strip() == command.output:
        return True
    print(f"{' '.join(command.argv)}\n{result.stdout}", flush=True)
    return False


def lint_ruby() -> Iterator[Command]:
    for file in files(".rb"):
        # The exit status is 0 even with warnings, so the output has to be compared.
        yield Command(("ruby", "-wc", str(file)), output="Syntax OK")


def test_ruby() -> Iterator[Command]:
    if (folder := ROOT / "sdks/ruby/test").exists():
        yield Command(("ruby", "-w", "-Ilib", "-Itest", "-e", RUN_TESTS), folder.parent)


def lint_node() -> Iterator[Command]:
    for file in files(".js", ".mjs", ".cjs"):
        yield Command(("node", "--check", str(file)), output="")
    if (folder := ROOT / "sdks/node").exists():
        yield from check_types(folder)


def check_types(folder: Path) -> Iterator[Command]:
    if (tsc := folder / "node_modules/.bin/tsc").exists():
        yield Command((str(tsc), "--noEmit"), folder)
    elif os.environ.get("CI") == "true":
        raise SystemExit(f"{folder}: there is no tsc; npm ci installs it")
    else:
        print("left out tsc: npm ci in sdks/node installs it", flush=True)


def test_node() -> Iterator[Command]:
    # By name, because Node 20 takes every file in test/ for a test, even the conformance app.
    if tests := sorted((ROOT / "sdks/node/test").glob("*.test.js")):
        names = (str(file.relative_to(ROOT / "sdks/node")) for file in tests)
        yield Command(("node", "--test", "--test-reporter=spec", *names), ROOT / "sdks/node")


def lint_go() -> Iterator[Command]:
    if sources := files(".go"):
        yield Command(("gofmt", "-l", *map(str, sources)), output="")
    for module in files("go.mod"):
        yield Command(("go", "vet", "./..."), module.parent, output="")


def test_go() -> Iterator[Command]:
    for module in files("go.mod"):
        yield Command(("go", "test", *race(), "./..."), module.parent)


def race() -> tuple[str, ...]:
    """Return the race detector's option, if it works: it needs cgo, and cgo a C compiler."""
    return ("-race",) if tools.run("go", "env", "CGO_ENABLED").stdout.strip() == "1" else ()


def files(*endings: str) -> list[Path]:
    found = (file for folder in SOURCES for file in sorted((ROOT / folder).rglob("*")))
    return [
        file
        for file in found
        if file.name.endswith(endings) and file.is_file() and not PASSED_OVER & {*file.parts}
    ]


LANGUAGES: dict[str, dict[str, Callable[[], Iterator[Command]]]] = {
    "ruby": {"lint": lint_ruby, "test": test_ruby},
    "node": {"lint": lint_node, "test": test_node},
    "go": {"lint": lint_go, "test": test_go},
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
