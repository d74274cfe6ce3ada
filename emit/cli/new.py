"""``emit new NAME --lang L``: the beginning of a node, or of a project."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
from pathlib import Path

from emit.cli.errors import CommandError, UsageError
from emit.cli.project import project_files
from emit.cli.templates import node_files
from emit.host.language.runtime import Runtime, fill, locate, runtimes

HELP = "Write the beginning of a node, with its test, or (with --project) of a Celery project."

EXAMPLES = """
  emit new words --lang ruby
  emit new words --lang go --sdk --test --dir app/nodes
  emit new --project tweets
"""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the node, which is a function, or of the project")
    parser.add_argument("--lang", choices=list(runtimes()), help="the node's language")
    parser.add_argument("--sdk", action="store_true", help="begin with the SDK: retries, logging")
    parser.add_argument("--test", action="store_true", help="write a test, too")
    parser.add_argument("--dir", type=Path, default=Path("nodes"), help="where (%(default)s)")
    parser.add_argument("--project", action="store_true", help="a Celery project in a new folder")


def run(arguments: argparse.Namespace) -> int:
    if not _NAME.fullmatch(arguments.name):
        raise UsageError(f'"{arguments.name}" can\'t be a name: take small letters, digits and _')
    if arguments.project:
        return _new_project(arguments.name)
    if arguments.lang is None:
        raise UsageError("say which language: --lang " + "|".join(runtimes()))
    return _new_node(arguments)


def _new_project(name: str) -> int:
    folder = Path(name)
    if folder.exists():
        raise CommandError(f"{folder} is there already; nothing was written")
    from emit.cli.toolchains import installed

    languages = installed()
    if not languages:
        raise CommandError("none of the languages is installed: see emit doctor")
    write(project_files(name, folder, languages))
    print(f"\nTest it:  cd {name} && python -m pytest")
    print(f"Run it:   cd {name} && celery -A app worker  (needs Redis; see {folder}/README.md)")
    return 0


def _new_node(arguments: argparse.Namespace) -> int:
    language = runtimes()[arguments.lang]
    files = dict(node_files(language, arguments.name, arguments.dir, sdk=arguments.sdk, test=True))
    node, test = files
    write({path: text for path, text in files.items() if path == node or arguments.test})
    target = node.parent if language.folders else node
    print(f"\nTry it:   emit call {target} text='the rain'")
    if arguments.test:
        print(f"Test it:  {test_command(language, target, test)}")
    else:
        print(f"Look:     emit inspect {target}")
    return 0


def write(files: dict[Path, str]) -> None:
    """
    Write files that are not there yet, or none at all.

    Raises:
        CommandError: One is there already.
    """
    for path in files:
        if path.exists():
            raise CommandError(f"{path} is there already; nothing was written")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        print(f"created {path}")


def test_command(language: Runtime, node: Path, test: Path) -> str:
    """How a test file is run, as a line for a shell."""
    from emit.host.language.launch import places

    # What is built is built, and tested, in a folder of its own.
    file = test.absolute() if language.build else test
    values = {**places(locate(node.stem, node), None), "file": str(file)}
    words = [_shorter(word) for word in fill(language.test, values)]
    return shlex.join(words)


def _shorter(word: str) -> str:
    """This Python by its name, where that is what a shell would find."""
    found = shutil.which("python")
    return "python" if word == sys.executable and found and Path(found).samefile(word) else word
