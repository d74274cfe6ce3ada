"""A program that could not load a library: the error says what brings it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import EmitError
from emit.host.language.missing import describe_missing
from tests.conftest import require

#: A file that asks for what is not there, and what its error has to say.
FILES = {
    "a.rb": ("require 'not_here/json'\ndef a(n:) = n\n", "gem install not_here, or list it in a"),
    "a.py": ("import not_here.json\ndef a(n): return n\n", "python -m pip install not_here)"),
    "a.mjs": (
        "import x from '@not/here/json';\nexport default () => x;\n",
        "npm install @not/here, in the folder of the file",
    ),
    "a.cjs": ("module.exports = require('not-here');\n", "npm install not-here, in the folder"),
}

#: The same of a program that Emit lends no SDK.
PROGRAMS = {
    "b.rb": ("ruby", 'require "emit"\nEmit.node { 1 }\n', "gem install emit-graph-sdk"),
    "b.mjs": ("node", "import 'emit-graph-sdk';\n", "npm install emit-graph-sdk"),
    "b.py": (
        sys.executable,
        "import emit_sdk\n",
        f"{sys.executable} -m pip install emit-graph-sdk",
    ),
}


def error_of(tmp_path: Path, **options: Any) -> str:
    with Router() as router:
        node = router.node(("n",), name="n", cwd=str(tmp_path), **options)(ShellNode)
        with pytest.raises(EmitError) as caught:
            node(n=1)
    return str(caught.value)


@pytest.mark.parametrize("file", FILES)
def test_of_a_file(file: str, tmp_path: Path) -> None:
    """A library that is nowhere, in each language."""
    require(*{"rb": ["ruby"], "py": []}.get(file.partition(".")[2], ["node"]))
    text, says = FILES[file]
    (tmp_path / file).write_text(text)
    assert f"install it, as by: {says}" in error_of(tmp_path, file=file).replace(
        sys.executable, "python"
    )


@pytest.mark.parametrize("mode", ["auto", "persistent"])
@pytest.mark.parametrize("file", PROGRAMS)
def test_of_the_sdk(file: str, mode: str, tmp_path: Path) -> None:
    """The advice is the same if the program starts for the first message, or to stay."""
    program, text, says = PROGRAMS[file]
    require(*{program} - {sys.executable})
    (tmp_path / file).write_text(text)
    says = f"install the SDK, as by: {says}; or say file =, which lends it"
    assert says in error_of(tmp_path, command=[program, file], mode=mode)


@pytest.mark.parametrize(
    "said",
    [
        "LoadError: cannot load such file -- /app/near",
        "Error: Cannot find module './near.js'",
        "Error: Cannot find module '/app/near.mjs' imported from /app/a.mjs",
        "ImportError: cannot import name 'near' from 'far'",
        "",
    ],
)
def test_no_hint(said: str) -> None:
    """A file of the author's own is brought by nobody's package."""
    assert describe_missing(said, ["python", "a.py"]) == ""


#: A language of a project's own that tells how its packages are installed.
TOY = """
name = "toy"
suffixes = [".toy"]
[detect]
command = ["toy", "--version"]
[launch]
command = ["toy", "{file}"]
[dependencies]
manifest = "toys"
missing = ['no toy is called (\\w+)', 'but where is (\\w+)']
sdk = { emit = "toy-emit" }
listed = '(?m)^{package}$'
alone = "sh get {package}, in a shop"
managers = { "toys.lock" = ["no-such-tool all", "sh add {package}"] }
installer = "get no-such-tool"
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime.toml of a project, which is the current directory."""
    path = tmp_path / "emit_runtimes" / "toy" / "runtime.toml"
    path.parent.mkdir(parents=True)
    path.write_text(TOY)
    monkeypatch.chdir(tmp_path)
    return path


def test_of_a_language_of_ones_own(toy: Path, tmp_path: Path) -> None:
    """Its runtime.toml has the words of a program that lacks a package, and what installs it."""
    argv = ["toy", str(tmp_path / "app" / "a.toy")]
    Path(argv[1]).parent.mkdir()
    Path(argv[1]).touch()
    said = "Oh, but where is brick"
    assert describe_missing(said, argv) == "install it, as by: sh get brick, in a shop"
    assert "as by: sh get toy-emit; or" in describe_missing("no toy is called emit", argv)
    (tmp_path / "toys").write_text("snow\n")
    assert describe_missing(said, argv) == f"install it, as by: sh add brick, in {tmp_path}"
    (tmp_path / "toys").write_text("snow\nbrick\n")
    lacks = "no-such-tool was not found; run: no-such-tool all"
    assert describe_missing(said, argv) == f"{lacks}, in {tmp_path}"


def test_the_installer_is_not_here(toy: Path) -> None:
    """The hint has what brings it."""
    toy.write_text(TOY.replace("sh get", "no-such-tool get"))
    hint = describe_missing("no toy is called brick", ["toy", "a.toy"])
    assert hint.startswith("no-such-tool was not found (install it: get no-such-tool); install it,")


def test_a_description_that_cannot_be_used(toy: Path) -> None:
    """The program's own error is the one that is raised; its hint says what is wrong here."""
    toy.write_text("name = 1")
    hint = describe_missing("ModuleNotFoundError: No module named 'attrs'", ["python", "a.py"])
    assert f"its installer is not known: {toy}: suffixes is missing" in hint
