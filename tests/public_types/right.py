"""Each way to use the public API, as type checkers must take it. Nothing here is run."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from celery import Celery

from emit import CeleryRouter, Message, NoResult, Reject, Router, RQRouter, ShellNode, idempotent
from emit.multilang import Limits
from emit.observe import Finished
from emit.testing import capture
from emit.typing import Decorator, Fields, NodeFunction, NodeOptions, Origins, Rows

if TYPE_CHECKING:
    from typing_extensions import Unpack, assert_type


router = Router(node_modules=["nodes"])


@dataclass
class Word:
    word: str
    length: int


class Keys(TypedDict):
    word: str
    length: int


@router.node(("word",), entry_point=True, name="words", stream=True)
def words(msg: Message) -> Iterator[str]:
    if not msg.text:
        raise Reject("there is no text")
    yield from msg.text.split()


@router.node(["word", "length"], words, validate=True)
def measure(msg: Word) -> tuple[str, int]:
    return msg.word, len(msg.word)


@router.node(Word, [words, "^re", re.compile("x")], ignore={"a", "b"}, pass_through=True)
async def awaited(msg: Message) -> Word:
    return Word(msg.word, 1)


@router.node(Keys, "words")
async def several(msg: Message) -> AsyncIterator[Keys]:
    yield {"word": msg["word"], "length": 2}


@router.node({"word": str}, (words, measure))
class Handler:
    def __call__(self, msg: Message) -> str:
        return str(msg.get("word"))


@router.node((field for field in ("n",)), "words")
def nothing(msg: Message) -> type[NoResult]:
    return NoResult


@router.node((), "words", many=True, batch=10, timeout="1h", queue="high", max_retries=None)
def many(messages: list[Message]) -> None:
    print(len(messages), messages[0].as_json())


@router.node(("n",), measure)
class Count(ShellNode):
    command = ["jq", "-c", "range(.length)"]
    cwd = Path("/tmp")
    env = {"LANG": "C"}
    pass_env = (*ShellNode.pass_env, "HOME")
    mode = "oneshot"
    codec = "msgpack"
    timeout = 5
    max_age = 60
    limits = Limits(cpu=1)

    def deserialize(self, msg: str | bytes) -> Any:
        return int(msg)


class Turn(ShellNode):
    def __init__(self, language: str) -> None:
        super().__init__()
        self.file = f"words.{language}"

    def __call__(self, msg: Message) -> Iterator[Any]:
        yield from super().__call__({"text": msg.document})


turn: NodeFunction[Rows] = router.node(("n",), size=2, mode="persistent")(Turn("rb"))
plain = router.node(("n",), file=Path("words.rb"), timeout=2.5, config={"a": 1})(ShellNode)

assert_type(words, NodeFunction[Rows])
assert_type(words(text="the rain"), tuple[dict[str, Any], ...])
assert_type(turn({"text": "the rain"}), tuple[dict[str, Any], ...])
one: dict[str, Any] = measure(word="rain")
print(one["word"], words.name, Count(length=3)[0]["n"], Count.acall, plain(n=1))


async def use() -> None:
    rows = await words.acall(text="the rain")
    assert_type(rows, tuple[dict[str, Any], ...])
    async for row in words.astream({"text": "the rain"}):
        assert_type(row, dict[str, Any])
    await router.acall(text="the rain")
    await Count.acall(length=3)


@router.observe
def show(fact: object) -> None:
    if isinstance(fact, Finished):
        print(fact.node, fact.results)


show(None)
with router as opened, capture(opened) as sent:
    opened(text="the rain")
    print(sent[0].message.word)

app = Celery("words")
tasks = CeleryRouter(app.task, node_modules=["tasks"])
with tasks as the_same:
    assert_type(the_same, CeleryRouter)


@tasks.node(("word",), celery_task=app.task(rate_limit="5/s"))
def task(msg: Message) -> Iterator[str]:
    yield from msg.text.split()


@tasks.node(("n",), task)
class Program(ShellNode):
    file = "words.rb"


task.delay(text="the rain")
Program.delay(text="the rain")

jobs = RQRouter("redis://", app="words")


@jobs.node(("word",), queue="words", result_ttl="1d")
def job(msg: Message) -> Any:
    with idempotent(jobs.redis_connection, key=msg.text) as first:
        return msg.text if first else NoResult


print(job.delay(text="the rain").id, job.enqueue({"text": "x"}).id, job(text="x"))


class MyOptions(NodeOptions, total=False):
    priority: int


class MyRouter(Router):
    if TYPE_CHECKING:

        def node(  # pyright: ignore[reportIncompatibleMethodOverride]
            self,
            fields: Fields,
            subscribe_to: Origins | None = None,
            entry_point: bool = False,
            ignore: Origins | None = None,
            **wrapper_options: Unpack[MyOptions],
        ) -> Decorator: ...


MyRouter().node(("n",), priority=3, name="mine")(many)
