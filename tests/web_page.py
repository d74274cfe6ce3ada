"""Serve the page of a graph whose messages never end: ``python -m tests.web_page FOLDER``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn

from emit import Router, ShellNode
from emit.web import app

#: A name and an error that would be markup, if the page took them for markup.
HOSTILE = "<img src=x onerror=alert(1)>"

router = Router()


@router.node(("text",), entry_point=True, name="lines")
def lines(msg: object) -> str:
    return "the rain in spain"


@router.node(("word",), "lines", name="words")
class Words(ShellNode):
    file = "words.rb"
    size = 1


@router.node((), "words", name=HOSTILE.replace(" ", ""))
def hostile(msg: object) -> None:
    raise ValueError(HOSTILE)


@router.node((), ".+", name="all")
def everything(msg: object) -> None:
    pass


async def feed(go: Path) -> None:
    """Call the router for as long as there is a file."""
    while True:
        if go.exists():
            for error in await asyncio.gather(asyncio.to_thread(router), return_exceptions=True):
                assert error is None or isinstance(error, ValueError)
        await asyncio.sleep(0.05)


async def main(folder: Path) -> None:
    config = uvicorn.Config(app(router, title="Rain"), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    feeding = asyncio.create_task(feed(folder / "go"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", flush=True)
    await serving
    feeding.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
