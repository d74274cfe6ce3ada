"""Emit asks nothing of a node's handler, except of those that say they can do more."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest

import emit
from emit import Router, ShellNode
from emit.cli.check import needs_of
from emit.drawing.outline import outline


def one(msg: Any) -> Any:
    return msg.n


class Program(ShellNode):
    command = ("cat",)
    mode = "oneshot"


MOCKS: dict[str, Callable[[], Any]] = {
    "Mock": lambda: Mock(return_value=None),
    "MagicMock": lambda: MagicMock(return_value=None),
    "AsyncMock": lambda: AsyncMock(return_value=None),
    "with a name": lambda: MagicMock(return_value=None, __name__="watcher"),
    "of a function": lambda: create_autospec(one, return_value=None),
    "of a program": lambda: MagicMock(spec=Program, return_value=None),
    "with the attributes of a function": lambda: Mock(spec=one, return_value=None),
    "with those and a name": lambda: Mock(spec=one, return_value=None, __name__="watcher"),
}


@pytest.mark.parametrize("kind", MOCKS)
def test_a_mock_is_a_handler(kind: str) -> None:
    """It is called once for each message, with the message, and asked for nothing else."""
    router, mock = Router(), MOCKS[kind]()

    @router.node(("n",), entry_point=True, name="start")
    def start(msg: Any) -> Iterator[int]:
        yield from (1, 2)

    node = router.node((), "start", name="watcher")(mock)
    with router:
        router()
        assert node(n=3) == {}
    assert [call.args[0].n for call in mock.call_args_list] == [1, 2, 3]
    assert outline(router).nodes["watcher"].language == "python"
    assert outline(router).nodes["watcher"].foreign is False
    assert needs_of(router._nodes["watcher"], router).fields in ((), None)


def test_a_mock_without_a_name() -> None:
    """It is called by its class, as any object that can be called."""
    router = Router()
    router.node(("n",))(Mock(return_value=1))
    assert router.names == {"unittest.mock.Mock"}


def test_a_mock_is_a_handler_of_a_queue() -> None:
    """A mock works as a Celery task, with a batch."""
    celery = pytest.importorskip("celery")
    app = celery.Celery("mocks", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    router = emit.CeleryRouter(celery_task=app.task(shared=False))
    mock = MagicMock(return_value=7)
    router.node(("n",), entry_point=True, name="mocks.node", batch=5)(mock)
    router(n=1)
    assert [call.args[0].n for call in mock.call_args_list] == [1]
    app.close()


def test_attributes_of_a_handler_are_its_own() -> None:
    """Attributes have a meaning only in a subclass of Handler, whatever they are called."""

    class Own:
        foreign = takes_many = True
        options = ("timeout",)
        max_attempts = "many"

        def configure(self) -> None: ...

        def open(self) -> None: ...

        def close(self) -> None: ...

        def __call__(self, *args: Any) -> Any:
            return self.options, args[0].n

    router = Router()
    node = router.node(("options", "n"), entry_point=True, name="own")(Own)
    with router:
        assert node(n=1) == {"options": ("timeout",), "n": 1}
    assert needs_of(router._nodes["own"], router).fields is None


#: Who may be asked for an attribute that it may lack, and why; by module.
ASKED = {
    ("core", "node"): "what wrap_node of a subclass has put in the place of a node's function",
    ("core", "func"): "the same",
    ("queued", "function"): "the same, before the queue's router has put a task or job there",
    ("node", "func"): "get_name takes any function, class or object",
    ("check", "called"): "a Python function, whose source is read",
}
#: What a handler, or what may be one, is called in the code.
CALLED = {"handler", "node", "seam", "func", "function", "called", "wrapped", "shell", "program"}
ROOT = Path(emit.__file__).parent


def test_handlers_are_not_asked_for_attributes() -> None:
    """Code that deals with handlers uses the attributes of Handler, and looks for no others."""
    asked = set()
    files = [ROOT / name for name in ("node.py", "multilang.py", "foreign.py")]
    files.append(ROOT / "checks.py")
    for folder in ("router", "drawing", "testing", "cli"):
        files += sorted((ROOT / folder).glob("*.py"))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[whom, *_]):
                    asked.add((file.stem, ast.unparse(whom)))
    assert {(file, whom) for file, whom in asked if whom.split(".")[-1] in CALLED} == set(ASKED)
