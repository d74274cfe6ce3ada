"""``emit new NAME --lang L``: write a first version of a node, or of a project."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from emit import share
from emit.cli.output import CommandError, UsageError
from emit.cli.project import forms, node_files, other_files, project_files
from emit.host.language.runtime import Runtime, fill, locate, runtimes

HELP = "Write a first version of a node, or (with --project) of a Celery project."

EXAMPLES = """
  emit new words --lang ruby
  emit new words --lang typescript --test
  emit new words --lang go --sdk --test --dir app/nodes
  emit new --project tweets
"""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", help="name of the node, which is a function, or of the project")
    add("--lang", choices=list(forms(runtimes())), help="the node's language")
    add("--sdk", action="store_true", help="use the language's SDK, for retries and logging")
    add("--test", action="store_true", help="write a test, too")
    add("--dir", type=Path, default=Path("nodes"), help="the folder (%(default)s)")
    add("--project", action="store_true", help="write a Celery project to a new folder")


def run(arguments: argparse.Namespace) -> int:
    if not _NAME.fullmatch(arguments.name):
        raise UsageError(f'"{arguments.name}" can\'t be a name: take small letters, digits and _')
    if arguments.project:
        return _new_project(arguments.name)
    if arguments.lang is None:
        raise UsageError("say which language: --lang " + "|".join(forms(runtimes())))
    return _new_node(arguments)


def _new_project(name: str) -> int:
    folder = Path(name)
    if folder.exists():
        raise CommandError(f"{folder} is there already; nothing was written")
    from emit.cli.checkup import aside, installed

    with aside():
        languages = installed()
    if not languages:
        raise CommandError("none of the languages is installed: see emit doctor")
    write(project_files(name, folder, languages))
    print(f"\nTest it:  cd {name} && emit test")
    print(f"Run it:   cd {name} && celery -A app worker  (needs Redis; see {folder}/README.md)")
    return 0


def _new_node(arguments: argparse.Namespace) -> int:
    language, suffix = forms(runtimes())[arguments.lang]
    given = {"sdk": arguments.sdk, "test": arguments.test, "suffix": suffix}
    files = dict(node_files(language, arguments.name, arguments.dir, **given))
    node, *tests = files
    others = dict(other_files(language, arguments.lang, node.parent))
    write(files | {path: text for path, text in others.items() if not path.exists()})
    target = node.parent if language.folders else node
    print(f"\nTry it:   emit call {shlex.quote(str(target))} text='the rain'")
    for test in tests:
        print(f"Test it:  {test_command(language, target, test, arguments.sdk)}")
    if not tests:
        print(f"Look:     emit inspect {shlex.quote(str(target))}")
    return 0


def write(files: dict[Path, str]) -> None:
    """
    Write all files, or none if one of them exists.

    Raises:
        CommandError: A file exists already.
    """
    for path in files:
        if path.exists():
            raise CommandError(f"{path} is there already; nothing was written")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        print(f"created {path}")


def test_command(language: Runtime, node: Path, test: Path, sdk: bool) -> str:
    """
    Return the shell command that runs a test file. The command is right on any machine: it finds
    Emit's own files by ``emit --share``.
    """
    from emit.host.language.launch import places

    values = places(locate(node.stem, node), None)
    values["python"] = _shorter(values["python"])
    # A compiled language builds and tests in another folder.
    values["file"] = f"$PWD/{test}" if language.build and not test.is_absolute() else str(test)
    if language.folder.is_relative_to(share.root()):
        values["runtime"] = f"$(emit --share)/{language.folder.relative_to(share.root())}"
    elif language.folder.is_relative_to(Path.cwd()):
        values["runtime"] = str(language.folder.relative_to(Path.cwd()))
    env = language.test_sdk_env.items() if sdk else ()
    added = ("env", *(f"{name}={value}" for name, value in env)) if env else ()
    return " ".join(map(_quoted, fill((*added, *language.test), values)))


def _shorter(python: str) -> str:
    """Return the shortest command for a Python: a relative path, or ``python``."""
    if Path(python).is_relative_to(Path.cwd()):
        return str(Path(python).relative_to(Path.cwd()))
    return "python" if python == sys.executable else python


def _quoted(word: str) -> str:
    """Quote a word for a shell, but let the shell expand ``$``."""
    if "$" not in word:
        return shlex.quote(word)
    return '"' + re.sub(r'([\\"`])', r"\\\1", word) + '"'
