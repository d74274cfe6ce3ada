"""``emit ui app.router``: the running graph in a browser."""

from __future__ import annotations

import argparse
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from emit.cli.output import CommandError, UsageError
from emit.cli.target import load_router
from emit.router import Router

HELP = "Show the running graph of a router in a browser."

EXAMPLES = """
  emit ui app.router
  emit ui app.router --allow replay,drop
  emit ui app.router --payloads --redact password,email
  emit ui app.router --bind 0.0.0.0:8088 --token "$EMIT_TOKEN"
"""

USUAL = "127.0.0.1:8088"

#: Addresses of the loopback.
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("router", help="dotted path of the router, such as app.router")
    add(
        "--bind",
        default=USUAL,
        metavar="HOST:PORT",
        help="where to listen; port 0: any free one (%(default)s)",
    )
    add(
        "--token",
        help="what a browser needs to see the page (default: a new one, if it is needed: with "
        "another address than the loopback, or with --allow)",
    )
    add(
        "--allow",
        default="",
        metavar="WHAT",
        help="what the page may change: replay, drop, edit, with commas between",
    )
    add("--payloads", action="store_true", help="show messages: of dead letters, and a tap")
    add("--redact", default="", metavar="FIELDS", help="fields to hide, with commas between")


def run(arguments: argparse.Namespace) -> int:
    with serving(load_router(arguments.router), arguments, arguments.bind) as server:
        print("emit ui: Ctrl-C ends it", file=sys.stderr)
        server.run()
    return 0


@contextmanager
def serving(router: Router, arguments: argparse.Namespace, bind: str) -> Iterator[Server]:
    """
    Listen, and print the address of the page.

    Args:
        router: The router.
        arguments: May have the options of this command.
        bind: The address.

    Raises:
        CommandError: A package is missing, or the address can't be used.
        UsageError: An option is wrong.
    """
    try:
        import uvicorn

        from emit.web.server import CHANGES, app
    except ImportError as error:
        raise CommandError(f"it needs {error.name}: pip install 'emit-graph[web]'") from error
    host, port = _address(bind)
    allow = _words(getattr(arguments, "allow", ""))
    payloads = bool(getattr(arguments, "payloads", False))
    if unknown := set(allow) - set(CHANGES):
        raise UsageError(f"--allow takes {', '.join(CHANGES)}, not {', '.join(sorted(unknown))}")
    if "edit" in allow and not payloads:
        raise UsageError("--allow edit needs --payloads: nobody can edit what is not shown")
    token = getattr(arguments, "token", None)
    if token is None and (allow or host not in _LOOPBACK):
        token = secrets.token_urlsafe(24)
    redact = _words(getattr(arguments, "redact", ""))
    served: Any = app(router, token=token, allow=allow, payloads=payloads, redact=redact)
    with closing(_listen(host, port)) as listener:
        shown = f"[{host}]" if ":" in host else host
        end = f"?token={token}" if token else ""
        url = f"http://{shown}:{listener.getsockname()[1]}/{end}"
        config = uvicorn.Config(
            served, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        yield Server(url, uvicorn.Server(config), listener)


class Server(NamedTuple):
    """
    A page that is to be served.

    Attributes:
        url: Its address.
        uvicorn: Its server.
        listener: The socket that it listens on.
    """

    url: str
    uvicorn: Any
    listener: socket.socket

    def run(self) -> None:
        """Print the address, and serve the page until Ctrl-C."""
        print(self.url, flush=True)
        self.uvicorn.run(sockets=[self.listener])

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Print the address on stderr, and serve the page in a thread during the block."""
        print(f"the page is at {self.url}", file=sys.stderr, flush=True)
        thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [self.listener]})
        thread.start()
        try:
            yield
        finally:
            self.uvicorn.should_exit = True
            thread.join()


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--bind must be HOST:PORT, such as 127.0.0.1:8088, not {text!r}")
    return host, int(port)


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CommandError(f"can't listen on {host}:{port}: {error.strerror}") from error
    return listener
