"""The two halves and what may import what, read from the source."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Module -> its file, for every module of the package.
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "emit").rglob("*.py"))
    if "_share" not in path.parts
}
TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in FILES.items()}

#: What the two halves are; the rest (emit, emit.cli, emit.multilang and emit.foreign) joins them,
#: and both know emit.errors, emit.text, emit.letter, emit.exact and emit.forks.
GRAPH = (
    "message",
    "node",
    "awaiting",
    "coroutines",
    "graph",
    "once",
    "dead",
    "router",
    "digraph",
    "testing",
    "drawing",
    "typing",
)
HOST = ("host",)
#: Plays the host to a program under test; like the command line, none of the halves knows it.
KIT = ("conformance",)
DOOR = "emit.multilang"
DOORS = ("multilang", "foreign", "cli")

#: What users import, and from where: these paths stay, however the modules move.
PUBLIC = {
    "emit": (
        "CeleryRouter Message NoResult RQRouter Reject Retry Router ShellNode __version__ "
        "idempotent"
    ),
    "emit.cases.record": "Recorder recording save",
    "emit.celery": "configure problems",
    "emit.context": "Context current",
    "emit.dead": "DeadLetters",
    "emit.django": "on_commit",
    "emit.host.host": "Host current",
    "emit.host.system.program": "Limits",
    "emit.letter": "Cause DeadLetter",
    "emit.message": "Message NoResult",
    "emit.multilang": "Limits ShellNode",
    "emit.observe": "Dead Failed Finished Retried Sent Started Waiting",
    "emit.observe.fleet": "Report snapshots",
    "emit.once": "idempotent",
    "emit.router": "CeleryRouter RQRouter Router",
    "emit.router.celery": "CeleryRouter",
    "emit.router.core": "Router",
    "emit.router.rq": "RQRouter",
    "emit.rq": "EmitWorker",
    "emit.testing": "Died Drive Sent Stuck Wait capture die drive",
    "emit.typing": "Decorator Fields NodeFunction NodeOptions Origins RQDecorator RQFunction Rows",
}

#: What hangs on the core, and may know who observes.
OUTSIDE = ("observe", "cases", "cli", "web")

#: The part of emit.observe that the rest may know: it imports nothing heavy, and tells those who
#: listen. All else in the package is for the application to import, and knows the rest.
OBSERVE = ("observe.facts", "observe.observers", "observe.logs")

#: The layers of the graph half: each may import only what stands before it.
ORDER = (
    "errors",
    "forks",
    "text",
    "letter",
    "exact",
    "message",
    "context",
    "coroutines",
    "awaiting",
    "graph",
    *OBSERVE,
    "node",
)
ORDER += ("once", "dead", "celery_redis", "celery", "workers", "router", "testing")

#: Imports inside a function, and why.
LATE = {
    ("emit.cli.run", "emit.cli.ui"): "only --ui needs it",
    ("emit.cli.ui", "emit.web.server"): "an extra may be missing, and its help does not need it",
    (
        "emit.cli.doctor",
        "emit.cli.checkup",
    ): "the host, email and more: its help takes half as long",
    ("emit.cli.doctor", "emit.cli.queues"): "the same",
    ("emit.cli.dev", "emit.dev.session"): "watchfiles is optional",
    ("emit.cli.dev", "emit.dev.lines"): "the same, which its help does not need",
    ("emit.cli.dev", "emit.dev.service"): "the same",
    ("emit.cli.call", "emit.host.host"): "only a call that took too long needs it, and has it",
    ("emit.cli.check", "emit.cli.queues"): "the same, which only a router of a queue needs",
    ("emit.cli.metrics", "emit.observe.metrics"): "prometheus_client is optional",
    ("emit.cli.host", "emit.observe.metrics"): "the same",
    ("emit.cli.new", "emit.cli.checkup"): "the host, which only a project needs",
    ("emit.cli.new", "emit.host.language.launch"): "the same, which only a line about a test needs",
    ("emit.cli.top", "emit.cli.live"): "rich is optional, and only the live view needs it",
    ("emit.cli.top", "emit.cli.fleet"): "the host, which only --all needs",
    ("emit.cli.live", "emit.cli.fleet"): "the same",
    ("emit.node", "emit.awaiting"): "asyncio, as below",
    ("emit.cli.metrics", "emit.cli.fleet"): "the same",
    ("emit.node", "emit.coroutines"): "asyncio takes longer to import than all of Emit",
    ("emit.text", "difflib"): "only a wrong name needs it",
    ("emit.host.language.missing", "emit.host.language.runtime"): "tomllib, for a missing library",
    ("emit.host.process", "emit.host.language.runtime"): "the same, for who looks at a host",
    ("emit.host.host", "emit.host.language.runtime"): "the same, for commands with several nodes",
    ("emit.host.system.trampoline", "ctypes"): "the host imports this file only for its name",
    ("emit.multilang", "emit.foreign"): "the host, which takes as long as all else together",
    ("emit.multilang", "emit.host.process"): "the same",
    (
        "emit.multilang",
        "emit.host.wire.values",
    ): "orjson and msgpack, which only messages and a config need",
    (
        "emit.multilang",
        "emit.host.language.launch",
    ): "tomllib and hashlib, which only files as nodes need",
    ("emit.multilang", "emit.host.language.runtime"): "the same",
}

#: Who may import an optional dependency.
OPTIONAL = {
    "celery": {
        *("emit.router.celery", "emit.router.celery_host", "emit.router.celery_worker"),
        *("emit.celery", "emit.celery_redis", "emit.testing.celery"),
    },
    "rq": {"emit.router.rq", "emit.rq", "emit.cli.queues", "emit.testing.rq"},
    "django": {"emit.django", "emit.django.apps", "emit.django.management.commands.emit"},
    "redis": {
        "emit.router.rq",
        "emit.rq",
        "emit.cli.dead",
        "emit.cli.fleet",
        "emit.cli.queues",
        "emit.celery_redis",
    },
    "rich": {"emit.cli"},
    "graphviz": {"emit.cli.graph"},
    "opentelemetry": {"emit.observe.meters", "emit.observe.otel"},
    "prometheus_client": {"emit.observe.counts", "emit.observe.metrics", "emit.cli.metrics"},
    "sentry_sdk": {"emit.observe.sentry"},
    "grandalf": {"emit.web.layout"},
    "starlette": {"emit.web.server"},
    "uvicorn": {"emit.cli.ui"},
    "msgspec": {"emit.typed.python"},
    "watchfiles": {"emit.dev.session"},
    "pytest": {"emit.cases.plugin"},
}

#: Files that start programs.
SPAWNING = {"emit.host.system.spawn", "emit.host.system.lifeline", "emit.host.system.trampoline"}
SPAWNING |= {"emit.router.celery_host"}  # the shared host, which is Emit itself
SPAWNING |= {"emit.host.system.greenlets"}  # whose Popen the first two take, under gevent
SPAWNING |= {"emit.web.layout"}  # graphviz
SPAWNING |= {"emit.dev.service", "emit.dev.session"}  # the command of the user, and Emit itself
SPAWNING |= {"emit.cases.own"}  # the tests of other languages
STARTS = {
    *((name, "os") for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system")),
    *((name, "os") for name in ("popen", "execv", "execve", "execvp", "execvpe")),
}


def imports(module: str, tree: ast.AST | None = None) -> Iterator[str]:
    """The full names of what a module imports at run time, at any depth of it."""
    for node in ast.walk(_without_type_checking(tree or TREES[module])):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=source, names=names, level=0):
                for alias in names:
                    # "from emit.host import spawn" imports a module, not a name.
                    whole = f"{source}.{alias.name}"
                    yield whole if whole in FILES else str(source)


def _without_type_checking(tree: ast.AST) -> ast.AST:
    kept = ast.Module(body=[], type_ignores=[])
    kept.body = [
        node
        for node in getattr(tree, "body", [])
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return kept


def own_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "emit"}


def within(module: str, parts: tuple[str, ...]) -> bool:
    return any(module == f"emit.{part}" or module.startswith(f"emit.{part}.") for part in parts)


def test_the_source_was_found() -> None:
    """The other tests look at something."""
    assert {"emit", "emit.errors", "emit.router.core", "emit.host.system.spawn", DOOR} <= set(FILES)
    assert "emit.errors" in own_imports("emit.router.core")


@pytest.mark.parametrize("module", PUBLIC)
def test_public_import_paths(module: str) -> None:
    """Every path that users import from has what they import."""
    imported = importlib.import_module(module)
    assert [name for name in PUBLIC[module].split() if not hasattr(imported, name)] == []


def test_errors_imports_nothing() -> None:
    """Any module may raise an error, so errors imports none of them."""
    assert own_imports("emit.errors") == set()


@pytest.mark.parametrize("module", [module for module in FILES if within(module, GRAPH)])
def test_the_graph_half_knows_no_processes(module: str) -> None:
    """A module of the graph half imports neither the host half nor the door between them."""
    assert not [name for name in own_imports(module) if within(name, (*HOST, *KIT, *DOORS))]


@pytest.mark.parametrize("module", [module for module in FILES if within(module, HOST)])
def test_the_host_half_knows_no_graph(module: str) -> None:
    """A module of the host half imports nothing of the graph half."""
    assert not [name for name in own_imports(module) if within(name, (*GRAPH, *KIT, *DOORS))]
    assert "emit" not in own_imports(module)


@pytest.mark.parametrize("folder", ["wire", "system"])
def test_folders_of_the_host_that_stand_alone(folder: str) -> None:
    """The wire and the side of the operating system know nothing of pools and processes."""
    modules = [module for module in FILES if within(module, (f"host.{folder}",))]
    assert len(modules) > 5
    for module in modules:
        known = (f"host.{folder}", "errors", "exact", "forks", "share", "text")
        assert not [name for name in own_imports(module) if not within(name, known)], module


@pytest.mark.parametrize("module", [module for module in FILES if within(module, KIT)])
def test_the_conformance_kit_knows_only_the_host(module: str) -> None:
    """It needs no graph, and what it plays is what the host half would send."""
    assert not [name for name in own_imports(module) if within(name, (*GRAPH, *DOORS))]


@pytest.mark.parametrize(
    "module", [m for m in FILES if not within(m, ("observe", "cases", "cli", "web"))]
)
def test_nobody_knows_who_observes(module: str) -> None:
    """The core tells facts, and imports none of those that make something of them."""
    known = {name for name in own_imports(module) if within(name, ("observe",))}
    assert known <= {f"emit.{part}" for part in OBSERVE}


@pytest.mark.parametrize("part", ORDER)
def test_the_order_of_the_graph_half(part: str) -> None:
    """Each layer imports only those before it."""
    before = ORDER[: ORDER.index(part) + 1]
    for module in FILES:
        if within(module, (part,)):
            assert not [name for name in own_imports(module) if not within(name, before)], module


def test_no_cycles() -> None:
    """No module imports itself by way of others."""
    graph = {
        # A package that only gathers its modules is not one of its modules' needs.
        module: {name for name in own_imports(module) if not module.startswith(f"{name}.")}
        for module in FILES
    }
    TopologicalSorter(graph).prepare()


def test_no_module_imports_the_package_it_is_in() -> None:
    """Inside the package, names come from where they are defined, never from emit itself."""
    inside = [m for m in FILES if "emit" in own_imports(m) and m.split(".")[1:2] != ["cli"]]
    assert inside == []


def test_imports_inside_functions() -> None:
    """An import inside a function is one of those listed here with its reason."""
    late = set()
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                late |= {(module, name) for name in imports(module, node)}
    optional = {(module, name) for module, name in late if name.split(".")[0] in OPTIONAL}
    assert late - optional == set(LATE)


def test_optional_dependencies() -> None:
    """Celery, RQ, redis and rich are imported only by the modules made for them."""
    for module in FILES:
        for name in imports(module):
            owners = OPTIONAL.get(name.split(".")[0], {""})
            assert owners == {""} or any(
                f"{module}.".startswith(f"{owner}.") for owner in owners
            ), f"{module} imports {name}"


def starts_programs(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if (name, owner) in STARTS:
                return True
            case ast.Attribute(value=ast.Name(id="subprocess"), attr=name) if name[0].islower():
                return True
            case ast.Attribute(value=ast.Name(id="subprocess"), attr="Popen"):
                return True
            case ast.ImportFrom(module="subprocess" | "multiprocessing"):
                return True
    return False


def test_who_starts_programs() -> None:
    """Only the files made for it start a program or fork."""
    assert {module for module, tree in TREES.items() if starts_programs(tree)} <= SPAWNING


@pytest.mark.parametrize(
    "heavy", ["asyncio", "celery", "inspect", "psutil", "redis", "rich", "rq", "tomllib"]
)
def test_import_emit_is_light(heavy: str) -> None:
    """``import emit`` brings in no optional dependency and nothing that is slow to import."""
    program = f"import sys, emit; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "statement", ["from emit import ShellNode", "import emit.cli.call", "import emit.cli.new"]
)
def test_a_node_that_is_only_declared_is_light(statement: str) -> None:
    """No program is started yet: nothing is imported that only those need."""
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert not {"psutil", "orjson", "socket", "emit.host.host"}.intersection(done.stdout.split())


def test_a_forked_child_need_not_import_it(tmp_path: Path) -> None:
    """
    Workers import nodes, then fork for each job: what is late is there by then. A module that
    another thread is importing meanwhile would be locked for ever in the child.
    """
    (tmp_path / "up.py").write_text("def up(text):\n    return text.upper()\n", "utf-8")
    program = (
        "import os, sys; from emit import ShellNode\n"
        "class Up(ShellNode): file = 'up.py'\n"
        "up = Up(); up.configure('up', {}, stream=False); child = os.fork()\n"
        "if not child:\n"
        "    before = set(sys.modules)\n"
        "    assert list(up({'text': 'a'})) == ['A']\n"
        "    print(*(x for x in set(sys.modules) - before if x.startswith('emit.')), flush=True)\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


@pytest.mark.parametrize("module", FILES)
def test_every_module_says_what_it_is(module: str) -> None:
    """Every module begins with its documentation."""
    assert ast.get_docstring(TREES[module]) or not TREES[module].body


@pytest.mark.parametrize("module", ["carrier", "sender", "receiver"])
def test_who_carries_keeps_out_of_the_router(module: str) -> None:
    """A module that is given a router, or a part of it, uses none of its private attributes."""
    others = {"router", "_router", "queue", "_queue", "runner", "_runner", "sender", "_sender"}
    private = set()
    for node in ast.walk(TREES[f"emit.router.{module}"]):
        match node:
            case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name):
                if owner in others and name.startswith("_"):
                    private.add(ast.unparse(node))
    assert private == set()
