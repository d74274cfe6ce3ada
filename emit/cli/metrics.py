"""``emit metrics``: answer Prometheus for all Emit processes of this user on this machine."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from emit.cli.output import CommandError, UsageError
from emit.cli.target import load_router

HELP = "Answer Prometheus with the metrics of all Emit processes of this user on this machine."

EXAMPLES = """
  emit metrics
  emit metrics --bind 0.0.0.0:9464 --app app.router
  emit metrics --once | grep emit_messages_handled
"""

#: As OpenTelemetry's exporter for Prometheus: https://github.com/prometheus/prometheus/wiki/Default-port-allocations
USUAL = "127.0.0.1:9464"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--bind", metavar="ADDRESS", default=USUAL, help="host:port to listen on (%(default)s)")
    add(
        "--app",
        metavar="MODULE.ROUTER",
        help="also tell the messages in a router's queues, and its dead letters",
    )
    add("--once", action="store_true", help="print the metrics once and end")


def run(arguments: argparse.Namespace) -> int:
    try:
        from prometheus_client import CollectorRegistry, generate_latest, start_http_server

        from emit.observe.metrics import Collector
    except ImportError as error:
        raise CommandError(
            "this needs prometheus_client: pip install 'emit-graph[metrics]'"
        ) from error
    host, port = _address(arguments.bind)
    router = load_router(arguments.app) if arguments.app else None
    registry = CollectorRegistry()
    registry.register(Collector(router=router))
    if arguments.once:
        sys.stdout.write(generate_latest(registry).decode())
        return 0
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise CommandError(f"can't listen on {arguments.bind}: {error}") from error
    print(f"metrics at http://{host}:{server.server_port}/metrics", file=sys.stderr, flush=True)
    try:
        ended.wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--bind {text!r} is not of the form host:port, such as {USUAL}")
    return host.strip("[]"), int(port)
