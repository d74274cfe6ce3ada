"""A file finds the packages of its project as a program of its language does, however they came."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emit import Router, ShellNode
from emit.errors import EmitError, RemoteError, StartError
from emit.host.language.missing import describe_missing
from scripts import tools
from tests.conftest import require
from tests.hosts import ROOT
from tests.leaks import no_leaks

pytestmark = pytest.mark.slow

#: Where `npm ci` puts what the Node SDK's own development needs.
MODULES = ROOT / "sdks" / "node" / "node_modules"

#: How each package manager is called, the files that make it what it is, and its own file.
MANAGERS: dict[str, tuple[list[str], dict[str, str]]] = {
    "npm": (["npm", "install", "--offline", "--install-links", "--no-audit"], {}),
    "pnpm": (["node", f"{MODULES}/pnpm/bin/pnpm.cjs", "install", "--offline"], {}),
    "yarn 1": (["node", f"{MODULES}/yarn/bin/yarn.js", "install", "--offline"], {}),
    "yarn 4": (
        ["node", f"{MODULES}/@yarnpkg/cli-dist/bin/yarn.js", "install"],
        {".yarnrc.yml": "nodeLinker: node-modules\nenableTelemetry: false\n", "yarn.lock": ""},
    ),
    "plug and play": (
        ["node", f"{MODULES}/@yarnpkg/cli-dist/bin/yarn.js", "install"],
        {".yarnrc.yml": "pnpEnableEsmLoader: true\nenableTelemetry: false\n", "yarn.lock": ""},
    ),
}


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    with no_leaks():
        yield


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def call(file: Path, **options: Any) -> Any:
    """Give one message to a node of a file; its one result."""
    options = {"cwd": str(file.parent), **options}
    with Router() as router:
        node = router.node(("n",), name="n", file=file, **options)(ShellNode)
        [result] = node(word="rain")
        return result["n"]


def package(name: str, **more: Any) -> str:
    return json.dumps({"name": name, "version": "1.0.0", **more})


def need_modules() -> None:
    require("node")
    if not (MODULES / "pnpm").exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("left out: npm ci")


# Node


@pytest.mark.parametrize("manager", MANAGERS)
def test_packages_of_each_manager(manager: str, tmp_path: Path) -> None:
    """Two packages, one of which needs the other; what only its own tests need is not installed."""
    need_modules()
    command, files = MANAGERS[manager]
    write(
        tmp_path,
        {
            "libs/up/package.json": package(
                "up",
                main="up.js",
                dependencies={"mark": "file:../mark"},
                devDependencies={"gone": "1"},
            ),
            "libs/up/up.js": "exports.up = (word) => word.toUpperCase() + require('mark');\n",
            "libs/mark/package.json": package("mark", main="mark.js"),
            "libs/mark/mark.js": "module.exports = '!';\n",
            "app/package.json": package(
                "app",
                private=True,
                dependencies={"up": "file:../libs/up", "mark": "file:../libs/mark"},
            ),
            "app/plain.mjs": "import { up } from 'up';\n"
            "export const plain = ({ word }) => up(word);\n",
            "app/sdk.cjs": "const { node } = require('emit-graph-sdk');\n"
            "const { up } = require('up');\n"
            "module.exports = node('sdk', ({ word }) => up(word));\n",
            "app/sdk.mjs": "import { node } from 'emit-graph-sdk';\nimport { up } from 'up';\n"
            "export default node(function sdk({ word }) { return up(word); });\n",
            **{f"app/{name}": text for name, text in files.items()},
        },
    )
    env = {**os.environ, "HOME": str(tmp_path), "YARN_ENABLE_GLOBAL_CACHE": "0"}
    env["CI"] = ""  # some managers ask for a lock file there
    done = subprocess.run(command, cwd=tmp_path / "app", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for file in ("plain.mjs", "sdk.cjs", "sdk.mjs"):
        assert call(tmp_path / "app" / file) == "RAIN!", file


@pytest.mark.requires("node")
@pytest.mark.parametrize("where", ["app/node_modules", "node_modules"])
def test_packages_that_npm_would_not_have_installed(where: str, tmp_path: Path) -> None:
    """Another version than package.json asks for, beside it or above: Node does not look."""
    asked = package("app", dependencies={"up": "^7.0.0", "gone": "1"}, resolutions={"up": "1"})
    write(
        tmp_path,
        {
            "app/package.json": asked,
            "app/up.mjs": "import up from 'up';\nexport default ({ word }) => up(word);\n",
            f"{where}/up/package.json": package("up"),
            f"{where}/up/index.js": "module.exports = (word) => word.toUpperCase();\n",
        },
    )
    assert call(tmp_path / "app" / "up.mjs") == "RAIN"


@pytest.mark.requires("node")
def test_node_without_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Node alone runs a file, as Alpine and Debian have it, with npm in a package of its own."""
    node = shutil.which("node")
    assert node is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "node").symlink_to(node)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    write(
        tmp_path,
        {
            "package.json": package("app", dependencies={"up": "1"}),
            "up.mjs": "export const up = ({ word }) => word.toUpperCase();\n",
            "down.mjs": "import 'up';\nexport const down = ({ word }) => word;\n",
        },
    )
    assert call(tmp_path / "up.mjs") == "RAIN"
    (tmp_path / "bin" / "apk").symlink_to(node)
    with pytest.raises(
        StartError,
        match=r"Cannot find package 'up'.*npm was not found \(install it: apk add npm\); "
        rf"run: npm install, in {tmp_path}",
    ):
        call(tmp_path / "down.mjs")


#: A file in TypeScript, by what it needs of whoever runs it.
TYPESCRIPT = {
    # Of no Node, as there is an enum and a file without its suffix.
    "tsx.ts": "import { low } from './low';\nenum Mark { Loud = '!' }\n"
    "export function tsx({ word }: { word: string }): string { return low(word) + Mark.Loud; }\n",
    "bad.ts": "enum Mark { Loud = '!' }\n"
    "export function bad({ word }: { word: string }): never { throw new Error(Mark.Loud); }\n",
    "plain.ts": "import { low } from './low.ts';\n"
    "export default ({ word }: { word: string }): string => low(word) + '!';\n",
    "sdk.ts": "import { node } from 'emit-graph-sdk';\n"
    "export default node(function sdk({ word }: { word: string }) { return word + '!'; });\n",
    "old.cts": "const path = require('node:path');\n"
    "exports.old = ({ word }: { word: string }): string => path.basename(word) + '!';\n",
    "new.mts": "const mark: string = await Promise.resolve('!');\n"
    "export default ({ word }: { word: string }): string => word + mark;\n",
}


@pytest.mark.parametrize("kind", ["commonjs", "module", None])
@pytest.mark.parametrize("major", [0, *tools.OTHER_NODES])
def test_typescript_with_tsx(
    major: int,
    kind: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """TypeScript runs as either kind of module, or neither, with this Node and with others."""
    caplog.set_level("INFO", "emit.node")
    need_modules()
    if major:
        node = tools.other_node(major)
        if not node.exists():
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("left out: make setup")
        monkeypatch.setenv("PATH", f"{node.parent}{os.pathsep}{os.environ['PATH']}")
    low = "export function low(word: string): string { return word.toLowerCase(); }\n"
    manifest = package("app", **({"type": kind} if kind else {}))
    write(tmp_path, {"package.json": manifest, "low.ts": low, **TYPESCRIPT})
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "tsx").symlink_to(MODULES / "tsx")
    for file in TYPESCRIPT.keys() - {"bad.ts"}:
        assert call(tmp_path / file) == "rain!", file
    with pytest.raises(RemoteError) as caught:
        call(tmp_path / "bad.ts")
    assert re.search(rf"{tmp_path}/bad\.ts:2:\d+\)?$", caught.value.stack[0])
    if kind == "commonjs":  # by the kind of the file it is known that Node can't read it
        plain = [record for record in caplog.messages if "plain.ts" in record]
        assert plain == []


@pytest.mark.requires("node")
@pytest.mark.parametrize("lock", ["pnpm-lock.yaml", "pnpm-workspace.yaml"])
def test_typescript_without_tsx(lock: str, tmp_path: Path) -> None:
    """The error about unreadable TypeScript says how the project would install tsx."""
    write(
        tmp_path,
        {
            "package.json": package("app", type="commonjs"),
            lock: "",
            "nodes/up.ts": "export const up = ({ word }: { word: string }) => word;\n",
        },
    )
    with pytest.raises(StartError, match="or pnpm add -D tsx") as caught:
        call(tmp_path / "nodes" / "up.ts")
    assert "async launch" not in str(caught.value)  # the launcher's own line says nothing


# Ruby

LOCKED = (
    "GEM\n  remote: https://rubygems.org/\n  specs:\n{specs}\nPLATFORMS\n  ruby\n\nDEPENDENCIES\n"
)


@pytest.mark.requires("ruby")
@pytest.mark.parametrize(
    ("gemfile", "said"),
    [
        ("source 'https://rubygems.org'\n", None),
        (
            "group :test do\n  gem 'not_here'\nend\n",
            r"it has the gems outside of groups: Could not",
        ),
        ("gem 'not_here'\n", r"the file runs without Bundler: Could not find gem 'not_here'"),
        ("ruby '1.8.7'\n", r"the file runs without Bundler: Your Ruby version is"),
        ("gem gem gem (\n", r"the file runs without Bundler: .*syntax error"),
    ],
)
def test_a_gemfile(
    gemfile: str, said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that needs less than its Gemfile asks for runs, and the log says what was missing."""
    caplog.set_level("INFO", "emit.node.n")
    lock = LOCKED.format(specs="    not_here (1.0)\n") + "  not_here\n"
    write(tmp_path, {"Gemfile": gemfile, "up.rb": "def up(word:) = word.upcase\n"})
    if "group" in gemfile:
        write(tmp_path, {"Gemfile.lock": lock})
    assert call(tmp_path / "up.rb") == "RAIN"
    told = "\n".join(record.getMessage() for record in caplog.records)
    if said is None:
        assert "Bundler" not in told
    else:
        assert re.search(rf"Bundler can't set up {tmp_path}/Gemfile, {said}", told), told


@pytest.mark.requires("ruby")
def test_a_gem_of_the_gemfile(tmp_path: Path) -> None:
    """It is found by Bundler, and what the file requires of it and is missing is told."""
    spec = "Gem::Specification.new('upper', '1') { |s| s.summary = s.author = 'a'; s.files = [] }\n"
    write(
        tmp_path,
        {
            "Gemfile": "gem 'upper', path: 'upper'\n",
            "upper/upper.gemspec": spec,
            "upper/lib/upper.rb": "def upper(word) = word.upcase\n",
            "nodes/up.rb": "require 'upper'\ndef up(word:) = upper(word)\n",
        },
    )
    assert call(tmp_path / "nodes" / "up.rb", cwd=str(tmp_path)) == "RAIN"
    write(tmp_path, {"Gemfile": "gem 'not_here'\n"})
    write(tmp_path, {"nodes/up.rb": "require 'not_here'\ndef up(word:) = word\n"})
    says = rf"cannot load such file -- not_here.*run: bundle install, in {tmp_path}"
    with pytest.raises(EmitError, match=says) as caught:
        call(tmp_path / "nodes" / "up.rb", cwd=str(tmp_path))
    assert any("Could not find gem" in note for note in caught.value.__notes__)


# Go


@pytest.mark.requires("go")
@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.usefixtures("builds")
def test_a_vendored_module(replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that `go mod vendor` has put beside the file count, without a network."""
    monkeypatch.setenv("GOFLAGS", "-modcacherw")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "empty"))
    replace = "replace example.com/up => ../gone\n" if replaced else ""
    where = " => ../gone" if replaced else ""
    text = 'package up\n\nimport "strings"\n\nfunc Up[T ~string](word T) string '
    write(
        tmp_path,
        {
            "go.mod": f"module app\n\ngo 1.22\n\nrequire example.com/up v1.2.3\n{replace}",
            "vendor/modules.txt": f"# example.com/up v1.2.3{where}\n## explicit; go 1.22\n"
            f"example.com/up\n{'# example.com/up => ../gone' if replaced else ''}\n",
            "vendor/example.com/up/up.go": text + "{ return strings.ToUpper(string(word)) }\n",
            "nodes/shout.go": 'package nodes\n\nimport "example.com/up"\n\n'
            "type In struct{ Word string }\n\nfunc shout(in In) string { return up.Up(in.Word) }\n",
        },
    )
    assert call(tmp_path / "nodes" / "shout.go", cwd=str(tmp_path)) == "RAIN"


# What installs it

MISSING = {
    "node": "Cannot find package 'ms' imported from /a.mjs",
    "ruby": "LoadError: cannot load such file -- rack",
    "python": "ModuleNotFoundError: No module named 'attrs'",
}


@pytest.mark.parametrize(
    ("language", "files", "says"),
    [
        ("node", {"package.json": "{}"}, "npm install ms"),
        ("node", {"package.json": '{"dependencies": {"ms": "1"}}'}, "run: npm install"),
        ("node", {"package.json": "{}", "pnpm-lock.yaml": ""}, "pnpm add ms"),
        ("node", {"package.json": '{"ms": "1"}', "../pnpm-lock.yaml": ""}, "run: pnpm install"),
        ("node", {"package.json": '"ms"', "../pnpm-workspace.yaml": ""}, "run: pnpm install"),
        ("node", {"package.json": '{"ms": "1"}', "yarn.lock": ""}, "run: yarn install"),
        ("node", {"package.json": '{"ms": "1"}', "bun.lock": ""}, "run: bun install"),
        ("node", {"package.json": '"ms"', ".pnp.cjs": "", "yarn.lock": ""}, "pnpEnableEsmLoader"),
        ("ruby", {"Gemfile": "gem 'rack'\n"}, "run: bundle install"),
        ("ruby", {"Gemfile": ""}, "bundle add rack"),
        ("python", {"pyproject.toml": "", "uv.lock": ""}, "uv add attrs"),
        (
            "python",
            {"pyproject.toml": 'a = ["attrs>=2"]', "poetry.lock": ""},
            "run: poetry install",
        ),
        ("python", {"pyproject.toml": ""}, "python -m pip install attrs"),
    ],
)
def test_what_installs_it(language: str, files: dict[str, str], says: str, tmp_path: Path) -> None:
    """The program that the project's lock file is of, in the project's folder."""
    app = tmp_path / "top" / "app"
    write(app, {**files, "nodes/node.x": ""})
    argv = [language, "launch", "nodes/node.x"]
    hint = describe_missing(MISSING[language], argv, str(app))
    assert says in hint
    assert hint.endswith(f", in {app}")
