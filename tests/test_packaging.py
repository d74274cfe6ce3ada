"""The result of ``pip install emit-graph``: built, installed and used away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import require
from tests.plain_files import LANGUAGES, Language

pytestmark = pytest.mark.usefixtures("builds")

ROOT = Path(__file__).resolve().parent.parent
#: Folders and suffixes of files that are no source.
MADE = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", "node_modules"} | {
    *(".pyc", ".gem", ".tgz")
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, by way of the source distribution as a release is made."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel, and our dependencies by a .pth file."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", str(folder))
    python = folder / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--no-deps", "--no-index", str(wheel))
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def run(*command: str, cwd: Path | None = None) -> str:
    """The output of *command*; fails the test with it when the command fails."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        command,
        cwd=cwd,
        env=clean,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        pytest.fail(f"{' '.join(command)}\n{result.stdout}", pytrace=False)
    return result.stdout


def sources(folder: str) -> set[str]:
    """The files of *folder* in this checkout but for what other tools have made there."""
    place = ROOT / folder
    files = (file.relative_to(place.parent) for file in place.rglob("*") if file.is_file())
    return {str(file) for file in files if not MADE & {*file.parts, file.suffix}}


@pytest.mark.parametrize("folder", ["runtimes", "sdks", "tests/conformance"])
def test_wheel_carries_what_is_no_python(wheel: Path, folder: str) -> None:
    """Every file of these folders is in the wheel under emit/_share, and no other."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    share = "emit/_share/"
    mine = share + Path(folder).name
    carried = {name.removeprefix(share) for name in packed if name.startswith(mine)}
    assert carried
    assert carried == sources(folder)


def test_wheel_is_typed(wheel: Path) -> None:
    """Type checkers look at a package's own types only if it has this file."""
    assert "emit/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_wheel_made_at_once_has_the_same_files(wheel: Path, tmp_path: Path) -> None:
    """Files of other tools stay out, too, if no source distribution is made before the wheel."""
    build = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path))
    run(*build, str(ROOT))
    [direct] = tmp_path.glob("*.whl")
    assert zipfile.ZipFile(wheel).namelist() == zipfile.ZipFile(direct).namelist()


@pytest.mark.parametrize("script", ["emit", "emit_digraph"])
def test_wheel_installs_its_commands(installed: Path, tmp_path: Path, script: str) -> None:
    """The command is installed and can tell how it is used."""
    assert "usage" in run(str(installed / script), "--help", cwd=tmp_path).lower()


def test_wheel_has_the_conformance_scenarios(installed: Path, tmp_path: Path) -> None:
    """A stranger needs no checkout to test an SDK."""
    listed = run(str(installed / "emit"), "conformance", "--list", cwd=tmp_path)
    assert "core/handshake " in listed
    assert "values/integers beyond 2^53 " in listed


def test_wheel_imports_without_the_optional_dependencies(installed: Path, tmp_path: Path) -> None:
    """`import emit` needs no Celery, RQ or Rich, and comes from the wheel."""
    code = """
import sys
sys.modules.update(celery=None, rq=None, redis=None, rich=None)
import emit
print(emit.__file__)
"""
    python = installed / "python"
    where = Path(run(str(python), "-I", "-c", code, cwd=tmp_path).strip())
    assert where.is_relative_to(installed.parent)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_wheel_runs_plain_files(installed: Path, tmp_path: Path, language: Language) -> None:
    """A file with one function is a node, in a folder that has nothing else."""
    require(*filter(None, [language.tool]))
    file = language.write(tmp_path / "words", language.words())
    code = f"""
from emit import Router, ShellNode
with Router() as router:
    node = router.node(("word",), name="words", file={file!r})(ShellNode)
    print([result["word"] for result in node(text="the rain")])
"""
    assert run(str(installed / "python"), "-I", "-c", code, cwd=tmp_path) == "['the', 'rain']\n"


@pytest.fixture
def project(installed: Path, tmp_path: Path) -> Path:
    """An empty folder, but for the SDKs of Ruby and Node, installed from their packages."""
    require("ruby", "node")
    folder = tmp_path / "project"
    folder.mkdir()
    gem, packed = tmp_path / "sdk.gem", tmp_path / "packed"
    packed.mkdir()
    [spec] = (ROOT / "sdks" / "ruby").glob("*.gemspec")
    run("gem", "build", spec.name, "--output", str(gem), cwd=spec.parent)
    run(
        "gem",
        "install",
        "--local",
        "--no-document",
        "--install-dir",
        str(folder / "gems"),
        str(gem),
    )
    run("npm", "pack", str(ROOT / "sdks" / "node"), "--pack-destination", str(packed))
    [package] = packed.glob("*.tgz")
    run("npm", "install", "--offline", "--no-audit", "--no-fund", str(package), cwd=folder)
    return folder


GRAPH = """
import os
from emit import Router, ShellNode

os.environ["GEM_PATH"] = os.path.abspath("gems")
router = Router()

@router.node(("word",), entry_point=True, name="words")
class Words(ShellNode):
    file = "words.py"

@router.node(("word",), "words", name="shout")
class Shout(ShellNode):
    file = "shout.rb"

@router.node(("word", "length"), "shout", name="measure")
class Measure(ShellNode):
    file = "measure.mjs"

@router.node((), "measure", name="show")
def show(msg):
    print(msg.word, msg.length)

with router:
    router(text="the rain")
    for file in ("where.rb", "where.mjs"):
        node = router.node(("path",), name=file, file=file)(ShellNode)
        print(os.path.relpath(node(x=0)[0]["path"]))
"""


def test_three_languages_in_an_empty_folder(installed: Path, project: Path) -> None:
    """Plain files of three languages make a graph; one that asks for its SDK gets that of the
    project, not that of the wheel.
    """
    for name, text in {
        "words.py": "def words(msg):\n    yield from msg.text.split()\n",
        "shout.rb": "def shout(word:) = word.upcase\n",
        "measure.mjs": "export const measure = ({ word }) => [word, word.length];\n",
        "where.rb": 'require "emit"\ndef where = $LOADED_FEATURES.grep(/emit\\.rb$/).first\n',
        "where.mjs": "import 'emit-graph-sdk';\n"
        "export const where = () => new URL(import.meta.resolve('emit-graph-sdk')).pathname;\n",
        "graph.py": GRAPH,
    }.items():
        (project / name).write_text(text)
    printed = run(str(installed / "python"), "-I", "graph.py", cwd=project).splitlines()
    assert printed[:2] == ["THE 3", "RAIN 4"]
    assert printed[2].startswith("gems/gems/emit-graph-sdk-")
    assert printed[3].startswith("node_modules/emit-graph-sdk/")
