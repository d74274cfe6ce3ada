"""Messages that RabbitMQ or the network refuses, and the time that RabbitMQ lets messages wait."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from emit import CeleryRouter
from emit.celery import configure
from emit.errors import DispatchError, RemoteError
from tests.queues.notes import graph, wait_for
from tests.queues.proxy import Proxy
from tests.queues.rabbit import Rabbit, serving_rabbitmq
from tests.queues.worker import celery_worker, eventually, working

pytestmark = pytest.mark.requires("redis-server", "rabbitmq-server")


@pytest.fixture
def proxy(rabbitmq: Rabbit) -> Iterator[Proxy]:
    with Proxy(rabbitmq.port) as proxy:
        yield proxy


@pytest.fixture
def sender(rabbitmq: Rabbit, proxy: Proxy) -> Iterator[Any]:
    """A router that sends through a network which may fail; and the broker itself."""
    url = rabbitmq.url()
    app = Celery("sender", broker=url.replace(str(rabbitmq.port), str(proxy.port)))
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0}
    configure(app)
    router = CeleryRouter(celery_task=app.task(shared=False))
    router.node(("n",), name="sender.node")(lambda msg: None)
    with kombu.Connection(url) as broker:
        yield router, broker.default_channel
    proxy.drop()  # a deaf one would be asked for a farewell, and not answer
    app.close()


def send(router: CeleryRouter) -> None:
    router.dispatch("test", "sender.node", {"n": 1})


def arrived(channel: Any) -> int:
    return int(channel.queue_declare("celery", passive=True).message_count)


def test_a_connection_breaks_as_a_message_is_sent(sender: Any, proxy: Proxy) -> None:
    """It is sent again, on a new one: nothing that the sender believes to be sent is missing."""
    router, channel = sender
    proxy.every = 5
    for _ in range(20):
        send(router)
    assert proxy.resets
    eventually(lambda: arrived(channel) >= 20)


def test_a_broker_that_says_nothing(
    sender: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that the broker does not confirm in time counts as not sent."""
    router, channel = sender
    send(router)
    proxy.is_deaf = True
    monkeypatch.setattr("emit.router.celery._CONFIRM", 0.2)
    with pytest.raises(DispatchError, match=r'"sender\.node": Celery could not send'):
        send(router)
    proxy.is_deaf = False
    monkeypatch.undo()
    send(router)
    assert arrived(channel) == 2


def test_a_confirmation_that_comes_late(
    sender: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time limit has struck before it: it is not taken for that of the next message."""
    router, channel = sender
    send(router)
    proxy.is_mute = True
    with striking(lambda: arrived(channel) == 2), pytest.raises(SoftTimeLimitExceeded):
        send(router)
    proxy.is_mute = False
    proxy.is_deaf = True
    monkeypatch.setattr("emit.router.celery._CONFIRM", 0.2)
    with pytest.raises(DispatchError):
        send(router)


@contextlib.contextmanager
def striking(look: Callable[[], bool]) -> Iterator[None]:
    """Raise SoftTimeLimitExceeded in this thread as soon as *look* says so, as Celery would."""

    def strike(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    def wait() -> None:
        eventually(look)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_queue_that_was_deleted(sender: Any) -> None:
    """RabbitMQ takes what it has no queue for, and drops it: that is an error, too."""
    router, channel = sender
    send(router)
    channel.queue_delete("celery")
    with pytest.raises(DispatchError, match="NO_ROUTE"):
        send(router)
    send(router)  # on a new connection, which declares it
    assert arrived(channel) == 1


def test_a_full_queue(sender: Any) -> None:
    """One that refuses (overflow reject-publish) has the message refused where it is sent."""
    router, channel = sender
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("celery", durable=True, auto_delete=False, arguments=full)
    (app,) = {task.app for task in router.functions.values()}
    app.conf.task_queues = [kombu.Queue("celery", queue_arguments=full)]
    send(router)
    for _ in range(2):
        with pytest.raises(DispatchError):
            send(router)
    channel.queue_purge("celery")
    send(router)
    assert arrived(channel) == 1


def test_an_attempt_later_than_the_consumer_timeout(
    redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The author's delay of 14 s, where RabbitMQ ends a worker that has a message for 12: one second
    attempt, by the same worker.
    """
    # It looks every second, not every minute.
    with serving_rabbitmq(tmp_path, consumer_timeout=12000, channel_tick_interval=1000) as rabbit:
        monkeypatch.setenv("EMIT_TEST_BROKER", rabbit.url())
        monkeypatch.setenv("EMIT_TEST_CONSUMER_TIMEOUT", "12")
        with graph("flow", redis) as flow, celery_worker(tmp_path / "worker", "-c", "1") as worker:
            flow.moody.delay(how="once", after=14, _origin="test")
            first, second = wait_for(flow, "flow.moody", 2)
            wait_for(flow, "flow.after_moody", 1)
            assert second["at"] - first["at"] > 13.5
            assert [first["attempt"], second["attempt"]] == [1, 2]
            assert worker.is_alive


@pytest.fixture
def alone(rabbitmq: Rabbit, redis: str) -> Iterator[Any]:
    """An app of a test's own, with a channel to its broker; its letters are in Redis."""
    url = rabbitmq.url()
    app = Celery("alone", broker=url)
    app.conf.emit_redis = redis
    configure(app)
    with kombu.Connection(url) as connection:
        yield app, connection.default_channel
    app.close()


def letters_of(router: CeleryRouter) -> list[Any]:
    letters = router.dead_letters
    assert letters is not None
    return [letters.show(entry.id) for entry in letters.list()]


def test_many_attempts_with_long_causes(alone: Any) -> None:
    """The causes of a message fit into one RabbitMQ frame, however often it failed."""
    app, _ = alone
    router = CeleryRouter(celery_task=app.task(shared=False))

    @router.node((), name="alone.node", max_attempts=30)
    def node(msg: Any) -> None:
        raise RemoteError(
            node="n" * 500,
            type="\N{PILE OF POO}" * 5000,
            message="\N{PILE OF POO}" * 50_000,
            stack=["\N{PILE OF POO}" * 500] * 50,
            retry=True,
            after=0.01,
        )

    with working(app, loglevel="WARNING"):
        router.dispatch("test", "alone.node", {"n": 1})
        eventually(lambda: letters_of(router))
    (letter,) = letters_of(router)
    assert (letter.message, letter.attempts) == ({"n": 1}, 30)


def test_a_retry_of_celerys_that_is_refused(alone: Any) -> None:
    """The queue is full as the handler asks for it: Celery would drop the message, which stays."""
    app, _ = alone
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    app.conf.task_queues = [kombu.Queue("celery", queue_arguments=full)]
    app.conf.task_publish_retry = False
    router = CeleryRouter(celery_task=app.task(shared=False))
    runs: list[str] = []

    @router.node((), name="alone.other")
    def other(msg: Any) -> None:
        runs.append("other")

    @router.node((), name="alone.node", celery_task=app.task(shared=False, bind=True))
    def node(task: Any, msg: Any) -> None:
        runs.append("node")
        if len(runs) == 1:
            router.dispatch("test", "alone.other", {})
            raise task.retry(countdown=0)

    with working(app, loglevel="WARNING"):
        router.dispatch("test", "alone.node", {})
        eventually(lambda: len(runs) == 3)
    assert sorted(runs) == ["node", "node", "other"]
    assert letters_of(router) == []


def test_a_dead_letter_exchange(alone: Any) -> None:
    """A queue that has one gives it each message that is given up, beside Emit's dead letter."""
    app, channel = alone
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "graveyard"}
    app.conf.task_queues = [kombu.Queue("celery", queue_arguments=arguments)]
    router = CeleryRouter(celery_task=app.task(shared=False))

    @router.node((), name="alone.node")
    def node(msg: Any) -> None:
        raise KeyError("for good")

    channel.queue_declare("graveyard", durable=True, auto_delete=False)
    with working(app, loglevel="WARNING"):
        router.dispatch("test", "alone.node", {"n": 1})
        eventually(lambda: channel.queue_declare("graveyard", passive=True).message_count)
    assert [letter.message for letter in letters_of(router)] == [{"n": 1}]
