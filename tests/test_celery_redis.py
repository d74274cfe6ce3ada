"""Every way in which Celery names a Redis: Emit finds the same one, and reaches it the same way."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("celery")

import celery
import kombu
from celery import Celery
from redis import Redis
from redis.exceptions import RedisError

from emit.celery import problems, visibility
from emit.celery_redis import address_of, open_redis
from emit.errors import GraphError
from emit.once import address
from tests.conftest import free_port, serving_redis
from tests.queues.worker import ROOT, Worker, celery_worker, eventually

pytestmark = pytest.mark.requires("redis-server")


def kept(**settings: Any) -> Any:
    """A client of the Redis that is found for an app of these settings."""
    app = Celery("words")
    app.conf.update(settings)
    place = address_of(app)
    assert place is not None
    return open_redis(place)


def told(client: Any) -> dict[str, Any]:
    """Return a client's connection options, without those that kombu and redis-py add."""
    names = ("host", "port", "path", "db", "username", "password", "ssl_cert_reqs", "ssl_ca_certs")
    known = client.connection_pool.connection_kwargs
    return {name: known[name] for name in names if known.get(name) not in (None, "")}


HOST = {"host": "h", "port": 1}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"broker_url": "redis://"}, {"host": "127.0.0.1", "port": 6379, "db": 0}),
        ({"broker_url": "redis://h:1/3"}, {**HOST, "db": 3}),
        (
            {"broker_url": "redis://ann:p%40ss%2Fword@h:1/3"},
            {**HOST, "db": 3, "username": "ann", "password": "p@ss/word"},
        ),
        ({"broker_url": "redis://:p%3Aw@h:1"}, {**HOST, "db": 0, "password": "p:w"}),
        (
            {"broker_url": "redis+socket:///run/redis.sock?virtual_host=2"},
            {"path": "/run/redis.sock", "db": 2},
        ),
        (
            {"broker_url": "redis+socket://ann:p%40w@/run/redis.sock"},
            {"path": "/run/redis.sock", "db": 0, "username": "ann", "password": "p@w"},
        ),
        (
            {"broker_url": "rediss://h:1/0?ssl_cert_reqs=CERT_NONE"},
            {**HOST, "db": 0, "ssl_cert_reqs": ssl.CERT_NONE},
        ),
        (
            {"broker_url": "rediss://h:1/0?ssl_cert_reqs=none"},
            {**HOST, "db": 0, "ssl_cert_reqs": ssl.CERT_NONE},
        ),
        (
            {"broker_url": "rediss://h:1/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/ca.pem"},
            {**HOST, "db": 0, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem"},
        ),
        (
            {
                "broker_url": "redis://h:1/0",
                "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem"},
            },
            {**HOST, "db": 0, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem"},
        ),
        (
            {"broker_url": "amqp://q", "result_backend": "redis://ann:p%40w@h:1/3"},
            {**HOST, "db": 3, "username": "ann", "password": "p@w"},
        ),
        (
            {
                "broker_url": "amqp://q",
                "result_backend": "rediss://h:1/3?ssl_cert_reqs=CERT_NONE",
            },
            {**HOST, "db": 3, "ssl_cert_reqs": ssl.CERT_NONE},
        ),
        (
            {"broker_url": "amqp://q", "result_backend": "redis+socket:///r.sock?virtual_host=4"},
            {"path": "/r.sock", "db": 4},
        ),
        (
            {"broker_url": "redis://q", "emit_redis": "rediss://h:1/3?ssl_cert_reqs=CERT_NONE"},
            {**HOST, "db": 3, "ssl_cert_reqs": ssl.CERT_NONE},
        ),
        (
            {
                "broker_url": "amqp://q",
                "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED},
                "emit_redis": "rediss://h:1/3",
            },
            {**HOST, "db": 3, "ssl_cert_reqs": ssl.CERT_REQUIRED},
        ),
        (
            {
                "broker_url": "amqp://q",
                "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED},
                "emit_redis": "redis://h:1/3",
            },
            {**HOST, "db": 3},
        ),
        ({"emit_redis": "redis://h:1?db=5&socket_timeout=2"}, {**HOST, "db": 5}),
        ({"emit_redis": "unix:///r.sock?db=5"}, {"path": "/r.sock", "db": 5}),
        ({"emit_redis": "redis+socket:///r.sock?virtual_host=5"}, {"path": "/r.sock", "db": 5}),
        ({"emit_redis": "socket:///r.sock?virtual_host=5"}, {"path": "/r.sock", "db": 5}),
    ],
)
def test_forms(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    """Host, port, database, user, password and TLS are those of Celery."""
    assert told(kept(**settings)) == expected


@pytest.mark.parametrize("name", ["broker_url", "result_backend", "emit_redis"])
def test_sentinels(name: str) -> None:
    """The master of all sentinels, with the password of each kind."""
    urls = "sentinel://:secret@a:1/3;sentinel://b:2/3"
    options = {"master_name": "mine", "sentinel_kwargs": {"password": "theirs"}}
    settings: dict[str, Any] = {"broker_url": "amqp://q", name: urls}
    settings |= {"broker_transport_options": options, "result_backend_transport_options": options}
    client = kept(**settings)
    assert address(client) == "mine@a:1,b:2/3"
    assert told(client)["password"] == "secret"
    for sentinel in client.connection_pool.sentinel_manager.sentinels:
        assert sentinel.connection_pool.connection_kwargs["password"] == "theirs"


def test_a_wait_has_an_end() -> None:
    """kombu's connections wait for messages for ever; Emit's have a limit, or the app's own."""
    broker = {"broker_url": "redis://h", "broker_transport_options": {"socket_timeout": 7}}
    for settings, seconds in (({"broker_url": "redis://h"}, 30), (broker, 7)):
        client = kept(**settings)
        assert client.connection_pool.connection_kwargs["socket_timeout"] == seconds
        assert client.connection_pool.max_connections > 10_000


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"emit_redis": "memcached://:secret@h"},
            r"emit_redis = 'memcached://:\*\*@h/?': it must be",
        ),
        ({"emit_redis": "nonsense"}, "emit_redis = 'nonsense': it must be the address of a Redis"),
        ({"emit_redis": "redis://:secret@h/words"}, r"emit_redis = 'redis://:\*\*@h.*Database is"),
        ({"broker_url": "redis://h/words"}, "broker_url = 'redis://h/words' can't be used"),
        ({"broker_url": "sentinel://h"}, "broker_url = 'sentinel://h.*master_name"),
        ({"emit_redis": "sentinel://h"}, "emit_redis = 'sentinel://h.*master_name"),
        ({"broker_url": "valkey://h"}, "broker_url can't be used: .*No such transport: valkey"),
        (
            {"broker_url": "amqp://", "result_backend": "rediss://h"},
            "result_backend = 'rediss://h.*ssl_cert_reqs",
        ),
    ],
)
def test_what_can_not_be_used(settings: dict[str, Any], text: str) -> None:
    """It is refused with the setting and the reason, and without a password."""
    app = Celery("words")
    app.conf.update(settings)
    with pytest.raises(GraphError, match=text) as raised:
        address_of(app)
    assert "secret" not in str(raised.value)


def test_use_ssl_without_options() -> None:
    """kombu takes True for nothing at all, which nobody expects."""
    app = Celery("words")
    app.conf.update(broker_url="rediss://h", broker_use_ssl=True)
    assert any("broker_use_ssl = True is of no effect" in text for text in problems(app))


@pytest.mark.parametrize("join", [list, ";".join], ids=["list", "text"])
def test_alternatives(redis: str, join: Any) -> None:
    """The first Redis that answers is used; addresses of other brokers are left out."""
    gone = f"redis://127.0.0.1:{free_port()}/0"
    client = kept(broker_url=join([gone, redis, "redis://127.0.0.1:1/5"]))
    assert address(client) == redis.removeprefix("redis://")
    assert address(kept(broker_url=join([redis, "amqp://q"]))) == redis.removeprefix("redis://")
    assert address(kept(emit_redis=join([gone, redis]))) == redis.removeprefix("redis://")
    app = Celery("words")
    app.conf.update(broker_url=join([gone, redis]))
    assert visibility(app) == 3600


def test_no_redis_is_asked_by_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding out connects to nothing: a sender, and `emit graph`, need no Redis."""
    monkeypatch.setattr("socket.socket.connect", pytest.fail)
    app = Celery("words")
    app.conf.update(broker_url="redis://127.0.0.1:1;redis://127.0.0.1:2")
    assert address_of(app) is not None
    assert visibility(app) == 3600


# -- with workers ------------------------------------------------------------------------------


@contextmanager
def working(tmp_path: Path, **settings: Any) -> Iterator[tuple[Worker, dict[str, str]]]:
    """A worker of an app with these settings, and the environment of such an app."""
    env = {"EMIT_TEST_CONF": json.dumps(settings)}
    with celery_worker(tmp_path / "log", "-c", "1", app="addressed", **env) as worker:
        yield worker, env


def emit(env: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "emit.cli", *argv],
        cwd=ROOT / "tests" / "queues",
        env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def is_kept(tmp_path: Path, **settings: Any) -> None:
    """Check, start a worker, have a message fail, and see it listed by `emit dead`."""
    with working(tmp_path, **settings) as (worker, env):
        checked = emit(env, "check", "addressed.router")
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
        sent = emit(env, "run", "addressed.router", "n=1")
        assert sent.returncode == 0, sent.stderr
        listed = eventually(lambda: emit(env, "dead", "list", "--app", "addressed.router").stdout)
        assert "addressed: addressed.ill from __entry_point  1x  ValueError: ill" in listed
        assert "could not" not in worker.text


def test_a_socket(tmp_path: Path, short_folder: Path) -> None:
    path = short_folder / "redis.sock"
    with serving_redis(tmp_path, "--unixsocket", str(path)):
        is_kept(tmp_path, broker_url=f"redis+socket://{path}?virtual_host=1")
        with Redis(unix_socket_path=str(path), db=1) as client:
            assert client.zcard("emit:dead@addressed") == 1


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of a Redis with TLS, and the certificate of who signed its own: itself."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    files = {"cert-file": certificate, "key-file": key, "ca-cert-file": certificate}
    options = [word for name, path in files.items() for word in (f"--tls-{name}", str(path))]
    tls = ("--tls-port", str(port), "--tls-auth-clients", "no", *options)
    with serving_redis(tmp_path, *tls):
        yield port, certificate


@pytest.mark.requires("openssl")
@pytest.mark.parametrize("checked", [False, True])
def test_tls(secure: tuple[int, Path], tmp_path: Path, checked: bool) -> None:
    """TLS works with and without a check of the certificate, in Celery's spelling."""
    port, certificate = secure
    how = f"CERT_REQUIRED&ssl_ca_certs={certificate}" if checked else "CERT_NONE"
    is_kept(tmp_path, broker_url=f"rediss://localhost:{port}/0?ssl_cert_reqs={how}")


@pytest.mark.requires("openssl")
def test_a_certificate_that_nobody_knows(
    secure: tuple[int, Path], redis: str, tmp_path: Path
) -> None:
    """The worker says what is wrong and what to set, and so does `emit check`."""
    url = f"rediss://localhost:{secure[0]}/0?ssl_cert_reqs=CERT_REQUIRED"
    with working(tmp_path, broker_url=redis, emit_redis=url) as (worker, env):
        worker.said("CERTIFICATE_VERIFY_FAILED")
        worker.said("set ssl_ca_certs to the certificate of who signed its own; messages that fail")
        checked = emit(env, "check", "addressed.router")
    assert checked.returncode == 1
    assert "set ssl_ca_certs" in checked.stdout


def test_a_user_with_a_prefix(redis: str, tmp_path: Path) -> None:
    """Emit's keys carry ``global_keyprefix``, so a user who may touch no others is enough."""
    with Redis.from_url(redis) as client:
        commands = ("+@all", "-@dangerous", "+info", "+keys")
        client.execute_command(
            "ACL", "SETUSER", "words", "on", ">p@ss", "~words:*", "&*", *commands
        )
        url = redis.replace("//", "//words:p%40ss@")
        is_kept(tmp_path, broker_url=url, broker_transport_options={"global_keyprefix": "words:"})
        assert client.keys("emit:*") == []
        assert client.zcard("words:emit:dead@addressed") == 1


@pytest.mark.parametrize(
    ("rule", "doing"),
    [("-eval", "keep dead letters"), ("-sadd", "count a repeated delivery")],
)
def test_a_user_who_may_not(redis: str, tmp_path: Path, rule: str, doing: str) -> None:
    """The worker says what it is not allowed to do and what to allow; so do check and doctor."""
    with Redis.from_url(redis) as client:
        client.execute_command("ACL", "SETUSER", "keeper", "on", ">x", "~*", "&*", "+@all", rule)
    keeper = redis.replace("//", "//keeper:x@")
    with working(tmp_path, broker_url=redis, emit_redis=keeper) as (worker, env):
        worker.said("ready.")
        text = worker.text
        checked = emit(env, "check", "addressed.router")
        doctored = emit(env, "doctor", "--app", "addressed.router")
    for said in (text, checked.stdout, doctored.stdout):
        assert f"could not {doing}: " in said
        assert "ACL SETUSER ... ~emit:* +@read" in said
    assert text.count("could not") == 1
    assert "messages that fail or come again wait in their queue until it can" in text
    assert (checked.returncode, doctored.returncode) == (1, 1)


def test_a_redis_that_is_away(redis: str, tmp_path: Path) -> None:
    """The worker starts, and says that messages wait; to `emit check` it is nothing wrong."""
    away = f"redis://127.0.0.1:{free_port()}/0"
    with working(tmp_path, broker_url=redis, emit_redis=away) as (worker, env):
        assert "could not count a repeated delivery" in worker.text
        checked = emit(env, "check", "addressed.router")
    assert (checked.returncode, checked.stdout) == (0, "1 node, 1 edge: nothing found\n")
    assert checked.stderr.startswith("emit check: not tried: the Redis at 127.0.0.1")


def test_a_worker_refuses_what_can_never_work(redis: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"emit_redis = 'memcached://h/?': it must be"):
        with working(tmp_path, broker_url=redis, emit_redis="memcached://h"):
            pass


def test_a_cluster(redis: str, tmp_path: Path) -> None:
    """Its keys are spread by their names, which neither Celery nor Emit expects: it is told."""
    with serving_redis(tmp_path, "--cluster-enabled", "yes") as url:
        with Redis.from_url(url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        with working(tmp_path, broker_url=redis, emit_redis=url) as (worker, _):
            worker.said("it is a Redis Cluster: take one without")


@contextmanager
def sentinel(folder: Path, master: str) -> Iterator[int]:
    """The port of a sentinel that watches the Redis at *master*, as "mine"."""
    folder.mkdir()
    host, _, port = master.removeprefix("redis://").removesuffix("/0").partition(":")
    own = free_port()
    file = folder / "sentinel.conf"
    file.write_text(f"port {own}\ndir {folder}\nsentinel monitor mine {host} {port} 1\n")
    process = subprocess.Popen(["redis-server", str(file), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        with Redis(port=own) as client:
            eventually(lambda: _answers(client))
        yield own
    finally:
        process.kill()
        process.wait()


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def test_a_sentinel(redis: str, tmp_path: Path) -> None:
    """It is asked for the master, by the broker's own settings."""
    with ExitStack() as stack:
        ports = [stack.enter_context(sentinel(tmp_path / str(n), redis)) for n in (1, 2)]
        urls = ";".join(f"sentinel://127.0.0.1:{port}/0" for port in ports)
        options = {"master_name": "mine"}
        is_kept(tmp_path, broker_url=urls, broker_transport_options=options)
        with Redis.from_url(redis) as client:
            assert client.zcard("emit:dead@addressed") == 1


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("kombu.transport.redis.Channel", "_get_pool", {"broker_url": "redis://h"}),
        ("kombu.transport.redis.Channel", "_connparams", {"emit_redis": "redis://h"}),
        (
            "celery.backends.redis.RedisBackend",
            "_get_pool",
            {"broker_url": "memory://", "result_backend": "redis://h"},
        ),
    ],
)
def test_a_version_that_is_made_otherwise(
    kind: str, name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emit takes from inside of Celery and kombu: the error says that it is gone."""
    monkeypatch.delattr(f"{kind}.{name}")
    library = {"kombu": kombu, "celery": celery}[kind.partition(".")[0]]
    with pytest.raises(GraphError) as caught:
        kept(**settings)
    assert f"{library.__name__} {library.__version__} is not known to Emit" in str(caught.value)
    assert f"has no {name})" in str(caught.value)
    helps = {**settings, "emit_redis": "redis://h:1?db=2"}
    assert told(kept(**helps)) == {**HOST, "db": 2}
