"""``emit metrics``: answer Prometheus for all Emit processes of this user on this machine."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import Any

from emit.cli.output import CommandError, UsageError
from emit.cli.target import load_router

HELP = "Answer Prometheus with the metrics of all Emit processes of this user on this machine."

EXAMPLES = """
  emit metrics
  emit metrics --bind 0.0.0.0:9464 --app app.router
  emit metrics --once | grep emit_messages_handled
  emit metrics --all --app app.router
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
    add("--all", action="store_true", help="the processes of all machines, from their Redis")
    add("--redis", metavar="URL", help="their Redis (default: the app's, $EMIT_REDIS, $REDIS_URL)")
    add("--prefix", help="prefix of Emit's keys, as global_keyprefix (default: the app's, or none)")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.all:
        return _serve(arguments, {})
    from emit.cli import fleet

    with fleet.reading(arguments) as read:

        def snapshots() -> list[tuple[str, Any]]:
            try:
                hosts = fleet.hosts_of(read())
            except CommandError as error:  # a scrape goes on without them
                print(f"emit metrics: {error}", file=sys.stderr, flush=True)
                return []
            return [(f"{machine} {pid}", told) for (machine, pid, _), told in hosts.items()]

        return _serve(arguments, {"snapshots": snapshots})


def _serve(arguments: argparse.Namespace, options: dict[str, Any]) -> int:
    """Answer with the metrics of a collector that is made with *options*."""
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
    registry.register(Collector(router=router, **options))
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
