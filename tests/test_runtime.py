"""The language of a file, and the contents of a runtime.toml."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from emit.errors import GraphError
from emit.host.language.runtime import _KEYS, PLACES, fill, language_of, locate, name_of, runtimes
from tests.hosts import ROOT

TOY = """
name = "toy"
suffixes = [".toy"]
folders = true
[detect]
command = ["toy", "--version"]
[launch]
command = ["toy", "{file}", "{function}"]
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def add(toml: str = TOY, folder: str = "emit_runtimes/toy") -> Path:
    path = Path(folder, "runtime.toml").absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(toml)
    return path


# Files


@pytest.mark.parametrize(
    ("file", "name", "function"),
    [
        ("words.py", "words.py", ""),
        ("words.py:split", "words.py", "split"),
        ("a:b/words.py", "a:b/words.py", ""),
        ("a:b/words.py:is_word?", "a:b/words.py", "is_word?"),
    ],
)
def test_a_file(project: Path, file: str, name: str, function: str) -> None:
    """A path, and perhaps a function after the last colon."""
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).touch()
    source = locate("words", file)
    assert (source.path, source.function) == (project / name, function)
    assert source.runtime.name == "python"


def test_a_path_object(project: Path) -> None:
    """A Path will do, and is relative to cwd as a command is."""
    (project / "nodes").mkdir()
    (project / "nodes" / "words.py").touch()
    assert locate("words", Path("words.py"), "nodes").path == project / "nodes" / "words.py"


@pytest.mark.parametrize("spec", ["words.py:", "words.py:a b", "words.py:1", "words.py:a-b"])
def test_a_function_that_is_none(project: Path, spec: str) -> None:
    """It is refused, with what to write instead."""
    (project / "words.py").touch()
    with pytest.raises(GraphError, match=r'"words": file = .*no name of a function.*path:function'):
        locate("words", spec)


@pytest.mark.parametrize("file", ["nodes/words.py", "", ":split", "nodes/words.py:split"])
def test_no_file(project: Path, file: str) -> None:
    """The error has the whole path that was looked for, and what it is relative to."""
    with pytest.raises(GraphError, match=rf'"words".*there is no {project}.*the current directory'):
        locate("words", file)


def test_a_suffix_that_is_not_known(project: Path) -> None:
    """The error lists those that are, and how to add one."""
    (project / "words.xyz").touch()
    with pytest.raises(GraphError, match=r"words\.xyz.*known: .*\.py.*emit_runtimes"):
        locate("words", "words.xyz")


def test_a_folder(project: Path) -> None:
    """A folder is a node of the language whose files it holds, where that takes folders."""
    add()
    (project / "words").mkdir()
    with pytest.raises(GraphError, match=r"it is a folder, and must hold files of one of: .*toy"):
        locate("words", "words")
    (project / "words" / "words.toy").touch()
    source = locate("words", "words:split")
    assert (source.path, source.runtime.name) == (project / "words", "toy")


# A project's own languages


def test_a_projects_own_language_is_asked_first(project: Path) -> None:
    """One of the same suffix replaces that of Emit; $EMIT_RUNTIMES comes before the folder."""
    (project / "words.py").touch()
    add(TOY.replace(".toy", ".py"))
    assert locate("words", "words.py").runtime.name == "toy"
    add(TOY.replace(".toy", ".py").replace('"toy"', '"first"'), "elsewhere/first")
    os.environ["EMIT_RUNTIMES"] = f"{os.pathsep}elsewhere{os.pathsep}nowhere"
    try:
        assert locate("words", "words.py").runtime.name == "first"
        assert list(runtimes())[:2] == ["first", "toy"]
    finally:
        del os.environ["EMIT_RUNTIMES"]


def test_a_changed_description_is_read_again(project: Path) -> None:
    """A runtime.toml is kept for as long as it is as it was."""
    path = add()
    assert runtimes()["toy"].suffixes == (".toy",)
    path.write_text(TOY.replace(".toy", ".other"))
    os.utime(path, ns=(1, 1))
    assert runtimes()["toy"].suffixes == (".other",)


def test_without_the_folder_of_emit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broken installation is told as one."""
    monkeypatch.setenv("EMIT_SHARE", str(tmp_path))
    with pytest.raises(GraphError, match=r"no language is known.*EMIT_SHARE"):
        runtimes()


# Commands


@pytest.mark.parametrize(
    ("command", "language"),
    [
        ("ruby words.rb", "ruby"),
        ("bundle exec words.rb", "ruby"),
        ("bundle exec rake", "ruby"),
        ("/opt/python3.12 -m words", "python"),
        ("npx tsx words.ts", "node"),
        ("npx tsx words.mts", "node"),
        ("nodejs20 words", "node"),
        ("go run words.go", "go"),
        ("jq -c .", "jq"),
        ("./words", "words"),
        ("", ""),
    ],
)
def test_language_of(command: str, language: str) -> None:
    """A file tells it by its end; else the program does."""
    assert language_of(command.split()) == language


def test_a_command_of_ones_own_language(project: Path) -> None:
    """Its language is told by a suffix or by a program of the project's runtime.toml."""
    assert language_of(["toybox4.2", "words"]) == "toybox"
    assert name_of(["toybox", "a/words.toy"]) == "toybox"
    add(TOY.replace("folders = true", 'programs = ["toybox", "toy7"]'))
    assert language_of(["toybox4.2", "words"]) == language_of(["/bin/toy7"]) == "toy"
    assert language_of(["box", "run", "a/words.toy"]) == "toy"
    assert name_of(["toybox", "a/words.toy"]) == "words.toy"


def test_a_command_needs_no_language(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A command gets its program's name if a runtime.toml can't be used, and the log says why."""
    path = add("name = 1")
    assert language_of(["ruby", "words.rb"]) == name_of(["ruby", "words.rb"]) == "ruby"
    assert f"the languages of commands are not known: {path}: suffixes is miss" in caplog.text


# What may stand in a runtime.toml


def test_every_key(project: Path) -> None:
    """All that docs/runtimes.md tells is taken."""
    path = add(
        TOY.replace("folders", "programs = ['toybox']\nfolders").replace(
            "[detect]", "[detect]\nminimum = '1.2'\ninstall = 'get toy'"
        )
        + """
env = { TOY = "{runtime}" }
[dependencies]
manifest = "toys"
check = ["toy", "check"]
install = "toy install"
prefix = ["toy", "with"]
env = { TOYS = "{manifest}" }
missing = ["no (brick|'x{2}')"]
sdk = { toys = "toy-sdk" }
listed = "^{package}$"
managers = { "toys.lock" = ["toy all", "toy add {package}"] }
alone = "{python} get {package}"
installer = { sh = "sh get toy" }
[build]
command = ["toy", "build", "{file}", "{output}"]
[test]
command = ["toy", "test", "{file}"]
test_file = "{name}_test.toy"
[debug]
command = ["{python}", "{file}"]
[picture]
fill = "#FEE2e2"
ink = "#7f1d1d"
"""
    )
    toy = runtimes()["toy"]
    assert (toy.fill, toy.ink) == ("#FEE2e2", "#7f1d1d")
    assert (toy.programs, toy.folders) == (("toybox",), True)
    assert (toy.folder, toy.minimum, toy.install) == (path.parent, "1.2", {"": "get toy"})
    assert (toy.manifest, toy.prefix, toy.env) == ("toys", ("toy", "with"), {"TOY": "{runtime}"})
    assert (toy.missing, toy.sdk) == (("no (brick|'x{2}')",), {"toys": "toy-sdk"})
    assert (toy.listed, toy.alone) == ("^{package}$", "{python} get {package}")
    assert toy.managers == {"toys.lock": ("toy all", "toy add {package}")}
    assert (toy.install, toy.installer) == ({"": "get toy"}, {"sh": "sh get toy"})
    assert (toy.test_file, toy.debug) == ("{name}_test.toy", ("{python}", "{file}"))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "toy"', "", "name is missing"),
        ('name = "toy"', "name = 1", "name = 1: must be a string"),
        ('name = "toy"', 'nam = "toy"', "name is missing"),
        ('name = "toy"', 'name = "toy"\nsufixes = []', r"sufixes = \[\]: there is no such key"),
        ('[".toy"]', '".toy"', "suffixes = '.toy': must be a list of strings"),
        ('[".toy"]', "[]", "suffixes.*one suffix or more"),
        ('[".toy"]', '["toy"]', "suffixes.*with its dot"),
        ('[".toy"]', "[1]", "suffixes.*must be a list"),
        ("true", '"yes"', "folders = 'yes': must be true or false"),
        ('["toy", "--version"]', "[]", "detect.command.*must name a program"),
        ("[launch]", 'minimum = "new"\n[launch]', "detect.minimum = 'new': must be numbers"),
        ("[detect]", "[detection]", "detect.command is missing"),
        ("{file}", "{path}", r"launch.command.*\{path\} stands for nothing; there are runtime"),
        ("[launch]", "[launch]\nenv = { A = 1 }", "launch.env.*must be a table of strings"),
        ("[launch]", 'launch = "toy"\n[other]', "launch.command is missing"),
        ('name = "toy"', "name = ", "Invalid|invalid"),
        ("{file}", "{package}", r"launch.command.*\{package\} stands for nothing"),
        (
            "[launch]",
            "[picture]\nfill = 'red'\n[launch]",
            "picture.fill = 'red': must be a colour su",
        ),
        ("[launch]", "[picture]\nink = '#000000'\n[launch]", "picture.ink needs picture.fill"),
        *(
            ("[launch]", f"[dependencies]\n{line}\n[launch]", f"dependencies.{says}")
            for line, says in {
                "missing = ['no toy']": "missing.*must be a list of regular expressions with a gr",
                "missing = ['(no']": "missing.*must be a list of regular expressions with a group",
                "missing = ['(no)']": "missing needs dependencies.alone, which is missing",
                "managers = { a = ['b', 'c'] }": "managers needs dependencies.manifest",
                "managers = { a = ['b'] }": "managers.*must be a table of pairs of strings",
                "managers = ['a', 'b']": "managers.*must be a table of pairs of strings",
                "listed = '('": "listed.*must be a regular expression",
                "listed = 'a'": "listed needs dependencies.managers",
                "alone = 'get {file}'": r"alone.*\{file\} stands for nothing; there are package",
                "installer = ['a']": "installer.*must be a string or a table of strings",
            }.items()
        ),
    ],
)
def test_what_is_wrong_in_it(project: Path, old: str, new: str, says: str) -> None:
    """The error names the file and the key."""
    assert old in TOY
    path = add(TOY.replace(old, new))
    with pytest.raises(GraphError, match=says) as caught:
        runtimes()
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text(project: Path) -> None:
    """Nor is one that is no UTF-8 taken."""
    path = add()
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(GraphError, match=str(path)):
        runtimes()


def test_places() -> None:
    """Each stands anywhere in a word; other braces are left alone."""
    values = {"file": "/a b", "function": ""}
    assert fill(["-e{file}", "{ x }", "{}"], values) == ("-e/a b", "{ x }", "{}")
    with pytest.raises(KeyError):
        fill(["{output}"], values)


# docs/runtimes.md

PAGE = (ROOT / "docs" / "runtimes.md").read_text("utf-8")


def test_the_page_has_every_key_and_place() -> None:
    """The page lists exactly the keys and places of a runtime.toml."""
    first = re.findall(r"^\| (`[^|]*`) \|", PAGE, re.MULTILINE)
    names = set(re.findall(r"`([^`]*)`", " ".join(first)))
    places = {name for name in names if name.startswith("{")}
    assert names - places == set(_KEYS)
    assert places == {f"{{{name}}}" for name in PLACES}


@pytest.mark.parametrize("language", ["Python", "Ruby", "Node", "Go"])
def test_the_page_has_every_language(language: str) -> None:
    """Its suffixes, and the least version."""
    row = re.search(rf"^\| \[?{language}\]?[^|]* \| ([^|]*) \| ([^|]*) \|", PAGE, re.MULTILINE)
    assert row is not None
    runtime = runtimes()[language.lower()]
    assert tuple(re.findall(r"`([^`]*)`", row[1])) == runtime.suffixes
    assert row[2] == runtime.minimum


@pytest.mark.parametrize("language", ["python", "ruby", "node", "go"])
def test_a_node_in_a_picture_can_be_read(language: str) -> None:
    """Fill and ink of each language have a contrast of 8 to 1 or more."""
    runtime = runtimes()[language]
    dark, light = sorted(map(luminance, (runtime.fill, runtime.ink)))
    assert (light + 0.05) / (dark + 0.05) >= 8


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as WCAG defines it."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (red, green, blue)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
