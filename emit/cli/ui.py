"""``emit ui app.router``: the running graph in a browser."""

from __future__ import annotations

import argparse
import secrets
import socket
import sys
from typing import Any

from emit.cli.output import CommandError, UsageError
from emit.cli.target import load_router

HELP = "Show the running graph of a router in a browser."

EXAMPLES = """
  emit ui app.router
  emit ui app.router --allow replay,drop
  emit ui app.router --bind 0.0.0.0:8088 --token "$EMIT_TOKEN"
"""

#: Addresses of the loopback.
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("router", help="dotted path of the router, such as app.router")
    add(
        "--bind",
        default="127.0.0.1:8088",
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
        help="what the page may change: replay, drop, with commas between",
    )
    add("--payloads", action="store_true", help="show the messages of dead letters")


def run(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn

        from emit.web.server import CHANGES, app
    except ImportError as error:
        raise CommandError(f"it needs {error.name}: pip install 'emit-graph[web]'") from error
    host, port = _address(arguments.bind)
    allow = [word for word in arguments.allow.split(",") if word]
    if unknown := set(allow) - set(CHANGES):
        raise UsageError(f"--allow takes {', '.join(CHANGES)}, not {', '.join(sorted(unknown))}")
    token = arguments.token
    if token is None and (allow or host not in _LOOPBACK):
        token = secrets.token_urlsafe(24)
    served: Any = app(
        load_router(arguments.router), token=token, allow=allow, payloads=arguments.payloads
    )
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    end = f"?token={token}" if token else ""
    print(f"http://{shown}:{listener.getsockname()[1]}/{end}", flush=True)
    print("emit ui: Ctrl-C ends it", file=sys.stderr)
    config = uvicorn.Config(
        served, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


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
