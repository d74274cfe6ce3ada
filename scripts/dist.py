"""
Build what a release publishes, into dist/: ``make dist``. With ``try``, install it as a stranger
would, and run a graph of four languages: ``make try-dist``.

The gem and the npm package are built by the tools of their languages. The Go module is not built:
Go fetches it from the repository, by its tag. It is used from another module here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import emit

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"

#: The interpreters to try, if they are on the PATH; a version of Python and of Node each.
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13", "python3.14")
NODES = ("node", "node20", "node22", "node24")

GRAPH = """
import os
from emit import Router, ShellNode

with Router() as router:
    files = {"words": "words.py", "shout": "shout.rb", "measure": "measure.mjs", "twice": "twice"}
    heard = None
    for name, file in files.items():
        fields = ("length",) if name in ("measure", "twice") else ("word",)
        router.node(fields, heard, heard is None, name=name, file=file)(ShellNode)
        heard = name
    got = []
    router.node((), "twice", name="show")(lambda msg: got.append(msg.length))
    router(text="the rain")
    assert got == [6, 8], got
"""

FILES = {
    "graph.py": GRAPH,
    "words.py": "from emit_sdk import context\ndef words(msg):\n    yield from msg.text.split()\n",
    "shout.rb": 'require "emit"\ndef shout(word:) = word.upcase\n',
    "measure.mjs": "import 'emit-graph-sdk';\n"
    "export const measure = ({ word }) => ({ length: word.length });\n",
    "twice/main.go": 'package main\n\nimport emit "github.com/emit-graph/emit/sdks/go"\n\n'
    'type in struct {\n\tLength int `json:"length"`\n}\n\n'
    "func main() {\n"
    "\temit.Serve(emit.Pure(func(m in) int { return 2 * m.Length }))\n}\n",
}


def main(action: str = "build") -> int:
    """Build everything, and try it out if *action* is ``try``. Raise if a command fails."""
    build()
    if action == "try":
        tried = [*map(shutil.which, PYTHONS)]
        nodes = _nodes()
        for number, python in enumerate(filter(None, tried)):
            if _works(python):
                try_out(python, nodes[number % len(nodes)])
    return 0


def build() -> None:
    """Build the wheels and source distributions, the gem and the npm package."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    for project in (ROOT, ROOT / "sdks" / "python"):
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, project)
    ruby = ROOT / "sdks" / "ruby"
    gem = DIST / f"emit-graph-sdk-{emit.__version__}.gem"
    run("gem", "build", "--strict", "emit-graph-sdk.gemspec", "--output", gem, cwd=ruby)
    run("npm", "pack", "--pack-destination", DIST, cwd=ROOT / "sdks" / "node")
    run("go", "vet", "./...", cwd=ROOT / "sdks" / "go")
    made = sorted(path.name for path in DIST.iterdir())
    print("\n".join(made))
    names = ("emit_graph", "emit_graph_sdk")
    expected = {f"{name}-{emit.__version__}{end}" for name in names for end in _ENDS}
    expected |= {gem.name, f"emit-graph-sdk-{emit.__version__}.tgz"}
    if set(made) != expected:
        raise SystemExit(
            f"dist/ should have {', '.join(sorted(expected))}: do the versions differ?"
        )


_ENDS = ("-py3-none-any.whl", ".tar.gz")


def try_out(python: str, node: str) -> None:
    """Install everything into a new folder, and run the graph there."""
    with tempfile.TemporaryDirectory(prefix="emit-dist-") as name:
        folder = Path(name)
        run(python, "-m", "venv", folder / "venv")
        here = folder / "venv" / "bin" / "python"
        wheels = sorted(DIST.glob("*.whl"))
        run(here, "-m", "pip", "install", "--quiet", *wheels)
        for file, text in FILES.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(text)
        [gem], [packed] = DIST.glob("*.gem"), DIST.glob("*.tgz")
        gems = folder / "gems"
        run("gem", "install", "--local", "--no-document", "--install-dir", gems, gem)
        run("npm", "install", "--offline", "--no-audit", "--no-fund", packed, cwd=folder)
        module = "module example.com/twice\n\ngo 1.22\n\n"
        module += "require github.com/emit-graph/emit/sdks/go v0.0.0\n\n"
        module += f"replace github.com/emit-graph/emit/sdks/go => {ROOT / 'sdks' / 'go'}\n"
        (folder / "twice" / "go.mod").write_text(module)
        path = os.pathsep.join([str(Path(node).parent), os.environ["PATH"]])
        env = {**os.environ, "GEM_PATH": str(gems), "PATH": path}
        env.pop("PYTHONPATH", None)
        run(here, "-I", "graph.py", cwd=folder, env=env)
        versions = (
            subprocess.check_output([tool, "--version"], text=True) for tool in (here, node)
        )
        print("works with", *map(str.strip, versions), flush=True)


def _nodes() -> list[str]:
    found = [path for path in map(shutil.which, NODES) if path is not None]
    found += sorted(map(str, (ROOT / ".venv").glob("nodes/*/node")))
    if not found:
        raise SystemExit("there is no node on the PATH")
    return found


def _works(python: str) -> bool:
    """Return False for a shim of pyenv that leads nowhere."""
    done = subprocess.run([python, "-c", ""], capture_output=True)
    return done.returncode == 0


def run(*command: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a command. If it fails, print its output and end."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{json.dumps(words)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
