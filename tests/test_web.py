"""The page of ``emit ui``: who may see what, and what there is to see in a browser."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from emit import Router, ShellNode
from emit.dead import DeadLetters
from emit.letter import Cause, DeadLetter
from emit.observe.fleet import Report
from emit.router.ledger import Ledger
from tests.conftest import serving_redis
from tests.hosts import ROOT
from tests.queues.worker import celery_worker, eventually
from tests.test_cli import EMIT

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from emit.web import app, layout
from emit.web import watch as web_watch
from emit.web.watch import Watch

CAUSE = Cause("KeyError", "row 17: no <b>key</b>", "the stderr\n", None, None, 1000.0)
TOKEN = "a-token-that-nobody-guesses"
JSON = {"content-type": "application/json"}


def graph() -> Router:
    router = Router()
    router.node(("n",), entry_point=True, name="first")(lambda msg: 1)
    router.node(("n",), "fir.+", name="second")(lambda msg: None)
    return router


def client(
    router: Router | None = None, url: str = "http://127.0.0.1", **options: Any
) -> TestClient:
    return TestClient(app(router or graph(), **options), base_url=url, follow_redirects=False)


# Who may see the page.


def test_without_a_token_only_this_machine() -> None:
    """A name of the loopback is asked for; a foreign name may point to it, too."""
    assert client().get("/").status_code == 200
    assert client(url="http://localhost:8088").get("/").status_code == 200
    for url in ("http://evil.example", "http://192.0.2.1"):
        refused = client(url=url).get("/api/graph")
        assert (refused.status_code, "this machine only" in refused.text) == (403, True)


def test_a_client_of_another_machine() -> None:
    """The name that it asks for does not help it."""
    served = app(graph())
    other = TestClient(served, base_url="http://127.0.0.1", client=("192.0.2.7", 5000))
    assert other.get("/").status_code == 403


def test_a_token() -> None:
    """It is needed for everything. The link sets a cookie and is forgotten; a header works, too."""
    there = client(url="https://emit.example", token=TOKEN)
    for path in ("/", "/static/app.js", "/api/graph", "/?token=wrong"):
        assert there.get(path).status_code == 401
    assert there.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    entered = there.get(f"/?token={TOKEN}")
    assert (entered.status_code, entered.headers["location"]) == (303, "https://emit.example/")
    cookie = entered.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "secure"))
    assert there.get("/api/graph").status_code == 200


def test_its_headers() -> None:
    """The browser is told to load and run nothing from elsewhere, on every answer."""
    for path in ("/", "/api/graph", "/static/app.js", "/nowhere"):
        headers = client().get(path).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert headers["x-content-type-options"] == "nosniff"


def test_options_that_can_not_work() -> None:
    """To allow a change without a token, or a change that there is not, is an error."""
    with pytest.raises(ValueError, match="needs a token"):
        app(graph(), allow=["drop"])
    with pytest.raises(ValueError, match="allow takes replay, drop, edit; unknown: erase"):
        app(graph(), allow=["erase"], token=TOKEN)


def test_mounted_in_another_application() -> None:
    """Its links are relative, so it works below any path."""
    whole = Starlette(routes=[Mount("/emit", app=app(graph()))])
    there = TestClient(whole, base_url="http://127.0.0.1")
    page = there.get("/emit/")
    assert page.status_code == 200
    assert not re.search(r'(?:src|href)="(?:/|http)', page.text)
    assert there.get("/emit/api/graph").json()["title"] == "Emit"


# What it tells.


def test_the_graph() -> None:
    """Nodes with their places, and edges with their paths; a regular expression is told."""
    told = client(title="Mine").get("/api/graph").json()
    assert told["title"] == "Mine"
    assert [node["name"] for node in told["nodes"]] == ["first", "second"]
    assert {(e["origin"], e["node"], e["pattern"]) for e in told["edges"]} == {
        ("__entry_point", "first", None),
        ("first", "second", "fir.+"),
    }
    assert all(edge["path"].startswith("M ") for edge in told["edges"])
    assert told["entry"]
    assert told["allow"] == []


def test_a_node_that_there_is_not() -> None:
    assert client().get("/api/node", params={"name": "nobody"}).status_code == 404
    assert client().get("/api/node/errors", params={"name": "nobody"}).status_code == 404
    assert client().get("/api/node/errors", params={"name": "first"}).json()["errors"] == []


@pytest.fixture
def letters(redis: str) -> Iterator[DeadLetters]:
    with pytest.importorskip("redis").Redis.from_url(redis) as connection:
        letters = DeadLetters(connection)
        for n in range(3):
            letters.add(DeadLetter("second", {"n": n, "secret": "s3"}, (CAUSE,), id=f"m{n}"))
        yield letters


def kept(letters: DeadLetters, **options: Any) -> tuple[Any, TestClient]:
    """A router with dead letters, and a client who has the token."""
    router: Any = graph()
    router.dead_letters = letters
    router.sent = []
    router.resend = router.sent.append
    there = client(router, token=TOKEN, **options)
    there.headers["authorization"] = f"Bearer {TOKEN}"
    return router, there


def test_dead_letters(letters: DeadLetters) -> None:
    """By cause, then one by one. Messages are not shown unless that was allowed."""
    _, there = kept(letters)
    [group] = there.get("/api/dead").json()
    assert (group["size"], group["text"]) == (3, "row #: no <b>key</b>")
    listed = there.get("/api/dead/letters", params={"group": group["id"]}).json()
    assert ([each["id"] for each in listed["letters"]], listed["more"]) == (
        ["m2", "m1", "m0"],
        False,
    )
    shown = there.get("/api/dead/letter", params={"id": "m1", "message": "1"}).json()
    assert shown["fields"] == ["n", "secret"]
    assert "s3" not in str(shown)
    assert shown["causes"][0]["text"] == CAUSE.text
    _, open_one = kept(letters, payloads=True)
    shown = open_one.get("/api/dead/letter", params={"id": "m1", "message": "1"}).json()
    assert "s3" in shown["message"]
    assert there.get("/api/dead/letter", params={"id": "none"}).status_code == 409


def test_no_dead_letters() -> None:
    refused = client().get("/api/dead")
    assert (refused.status_code, refused.json()["error"]) == (
        404,
        "this router keeps no dead letters",
    )


def test_changes_must_be_allowed(letters: DeadLetters) -> None:
    """By name, as a POST with JSON, and from the page itself."""
    router, there = kept(letters, allow=["drop"])
    refused = there.post("/api/dead/replay", json={"id": "m0"})
    assert (refused.status_code, "--allow replay" in refused.text) == (403, True)
    assert there.get("/api/dead/drop").status_code == 405
    foreign = {**JSON, "origin": "http://evil.example"}
    assert there.post("/api/dead/drop", json={"id": "m0"}, headers=foreign).status_code == 403
    form = {"content-type": "text/plain"}
    assert there.post("/api/dead/drop", content='{"id":"m0"}', headers=form).status_code == 403
    for wrong in ({}, [], {"id": 5}, {"group": None}):
        assert there.post("/api/dead/drop", json=wrong).status_code == 400
    del there.headers["authorization"]
    assert there.post("/api/dead/drop", json={"id": "m0"}).status_code == 401
    assert len(letters) == 3
    assert router.sent == []


def test_replay_and_drop(letters: DeadLetters) -> None:
    """One letter, or all of a group."""
    router, there = kept(letters, allow=["replay", "drop"])
    assert there.post("/api/dead/replay", json={"id": "m0"}).json() == {"sent": 1, "failed": {}}
    assert [letter.id for letter in router.sent] == ["m0"]
    assert there.post("/api/dead/drop", json={"id": "m1"}).json() == {"dropped": 1}
    [group] = there.get("/api/dead").json()
    done = there.post("/api/dead/replay", json={"group": group["id"]}).json()
    assert done == {"sent": 1, "failed": {}}
    assert there.post("/api/dead/drop", json={"group": group["id"]}).json() == {"dropped": 0}
    assert len(letters) == 0


def test_fields_are_hidden(letters: DeadLetters) -> None:
    """Those of the router, and those of the page."""
    router: Any = Router(redact=["Secret"])
    router.dead_letters = letters
    there = client(router, token=TOKEN, payloads=True, redact=["other"])
    there.headers["authorization"] = f"Bearer {TOKEN}"
    shown = there.get("/api/dead/letter", params={"id": "m1", "message": "1"}).json()
    assert json.loads(shown["message"]) == {"n": 1, "secret": "[hidden]"}
    assert shown["editable"] is False


def test_edit_and_replay(letters: DeadLetters, caplog: pytest.LogCaptureFixture) -> None:
    """What was hidden stays as it was. The log says which fields were changed, and not to what."""
    everything = {"payloads": True, "redact": ["secret"], "allow": ["edit"]}
    router, there = kept(letters, **everything)
    shown = there.get("/api/dead/letter", params={"id": "m1", "message": "1"}).json()
    assert shown["editable"] is True
    message = json.loads(shown["message"]) | {"n": 17, "new": [1]}
    told = {"id": "m1", "message": json.dumps(message)}
    assert there.post("/api/dead/edit", json=told).json() == {"sent": 1, "failed": {}}
    [sent] = router.sent
    assert sent.message == {"n": 17, "secret": "s3", "new": [1]}
    assert (sent.id, sent.node) == ("m1", "second")
    assert "m1 was sent again from the page, with changed fields: n, new" in caplog.text
    assert len(letters) == 2


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("{", "Expecting"),
        ("[1]", "a message is a map of fields"),
        ('{"n": "[hidden]"}', "[hidden] stands where nothing was hidden"),
    ],
)
def test_an_edit_that_can_not_be_sent(letters: DeadLetters, message: str, says: str) -> None:
    """The letter stays."""
    router, there = kept(letters, payloads=True, redact=["secret"], allow=["edit"])
    refused = there.post("/api/dead/edit", json={"id": "m1", "message": message})
    assert (refused.status_code, says in refused.text) == (409, True)
    assert there.post("/api/dead/edit", json={"id": "m1"}).status_code == 400
    assert (len(letters), router.sent) == (3, [])


def test_edit_needs_to_be_allowed(letters: DeadLetters) -> None:
    """And shown: nobody edits what is hidden."""
    _, there = kept(letters, payloads=True, allow=["replay"])
    told = {"id": "m1", "message": "{}"}
    refused = there.post("/api/dead/edit", json=told)
    assert (refused.status_code, "--allow edit" in refused.text) == (403, True)
    with pytest.raises(ValueError, match="allow = edit needs payloads"):
        app(graph(), token=TOKEN, allow=["edit"])


def test_a_tap_needs_payloads() -> None:
    """Otherwise it is refused, as is a tap of what there is not."""
    refused = client().get("/api/tap", params={"point": "first"})
    assert (refused.status_code, "--payloads" in refused.text) == (403, True)
    refused = client(payloads=True).get("/api/tap", params={"point": "first -> nowhere"})
    assert (refused.status_code, 'no node "nowhere"' in refused.json()["error"]) == (404, True)


def test_a_node_tells_its_settings() -> None:
    """With their defaults, and what it gets; neither its command nor its environment."""
    told = client().get("/api/node", params={"name": "second"}).json()
    assert told["settings"][0] == {
        "name": "stream",
        "value": "False",
        "default": "False",
        "changed": False,
    }
    assert told["gets"] == [{"origin": "first", "fields": ["n"]}]
    router = Router()

    @router.node((), entry_point=True, name="words")
    class Words(ShellNode):
        command = ("ruby", "--secret")
        timeout = 7

    told = client(router).get("/api/node", params={"name": "words"}).json()
    changed = {each["name"]: each["value"] for each in told["settings"] if each["changed"]}
    assert changed == {"timeout": "7"}
    assert "--secret" not in str(told)


def test_no_page_is_open() -> None:
    """Nothing is counted."""
    router = graph()
    client(router).get("/api/graph")
    assert router._observers.each == ()


@pytest.mark.requires("redis-server")
def test_a_worker_s_counts_are_added_once(
    redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its report is missing for a while, or if it begins to count anew."""
    router: Any = graph()
    reports: list[Any] = []
    monkeypatch.setattr(web_watch, "snapshots", lambda *where: list(reports))

    def report(count: int, at: float) -> Any:
        counts = {"nodes": {}, "edges": [["first", "second", count]]}
        head = ("web1", "a", "celery", "", "", 1, "", "", 0.0, at, 2.0, [])
        return Report(*head, {"nodes": {}}, counts)

    with pytest.importorskip("redis").Redis.from_url(redis) as connection:
        router.ledgers = lambda: [Ledger(connection)]
        watch = Watch(router)
        found = []
        for told in ([report(5, 1.0)], [], [report(7, 2.0)], [report(1, 3.0)], []):
            reports[:] = told
            edges = {(e["origin"], e["node"]): e["count"] for e in watch.look()["edges"]}
            found.append(edges["first", "second"])
        watch.close()
    assert found == [5, 5, 7, 8, 8]


@pytest.mark.requires("redis-server")
def test_the_fleet_s_redis_goes_away(tmp_path: Path) -> None:
    """The page says so, and shows this machine's processes meanwhile."""
    redis_py = pytest.importorskip("redis")
    with serving_redis(tmp_path) as url:
        router: Any = graph()
        with redis_py.Redis.from_url(url, retry=None) as connection:
            router.ledgers = lambda: [Ledger(connection)]
            watch = Watch(router)
            assert watch.look()["source"] == "0 workers on 0 machines, by Redis"
            router(n=1)
            assert watch.look()["nodes"]["second"]["calls"] == 1
            connection.shutdown(nosave=True)
            figures = watch.look()
            assert "by their sockets; " in figures["source"]
            assert watch.describe("second") == {"errors": [], "stderr": []}
            assert figures["nodes"]["second"]["calls"] == 1
            watch.close()


def test_redis_is_away() -> None:
    """The page tells it."""
    redis = pytest.importorskip("redis")
    with redis.Redis(port=1, socket_connect_timeout=1, retry=None) as connection:
        _, there = kept(DeadLetters(connection))
        refused = there.get("/api/dead")
    assert (refused.status_code, "Redis: ConnectionError" in refused.text) == (502, True)


# Where the nodes are.


def boxes(drawing: layout.Drawing) -> list[tuple[float, float, float, float]]:
    return [
        (p.x - p.width / 2, p.y - p.height / 2, p.x + p.width / 2, p.y + p.height / 2)
        for p in drawing.nodes.values()
    ]


@pytest.mark.parametrize("tool", ["graphviz", "grandalf"])
def test_no_nodes_overlap(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All nodes are inside the picture, also of several graphs, of circles and of lone nodes."""
    if tool == "grandalf":
        monkeypatch.setattr(layout.shutil, "which", lambda name: None)
    elif layout.shutil.which("dot") is None:
        pytest.skip("graphviz is not here")
    names = [f"n{number}" for number in range(30)] + ["alone", 'odd "name"\n', "x" * 200]
    edges = [(f"n{a}", f"n{b}") for a in range(20) for b in (a + 1, a * 7 % 20)]
    edges += [("n25", "n26"), ("n26", "n25"), ("n27", "n27")]
    drawing = layout.draw(names, edges)
    assert list(drawing.nodes) != []
    assert set(drawing.nodes) == set(names)
    assert [bool(path) for path in drawing.paths] == [True] * len(edges)
    found = boxes(drawing)
    for left, top, right, bottom in found:
        assert 0 <= left < right <= drawing.width
        assert 0 <= top < bottom <= drawing.height
    for number, (left, top, right, bottom) in enumerate(found):
        for other in found[:number]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]


def test_an_empty_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout.draw([], []).nodes == {}
    monkeypatch.setattr(layout.shutil, "which", lambda name: None)
    assert layout.draw([], []).nodes == {}


# The command.


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server, and provide its process and the address that it prints."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdks' / 'python'}", "NO_COLOR": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http"), process.communicate()[1]
            yield process, url
        finally:
            process.kill()


APP = """
from emit import Router
router = Router()
router.node(("n",), entry_point=True, name="first")(lambda msg: 1)
"""


def test_the_command(tmp_path: Path) -> None:
    """It prints the address, with a token if one is needed, and ends with Ctrl-C."""
    import httpx2 as httpx

    (tmp_path / "app.py").write_text(APP)
    command = [EMIT, "ui", "app.router", "--bind", "127.0.0.1:0"]
    with running([*command, "--allow", "drop"], tmp_path) as (process, url):
        plain, _, token = url.partition("?token=")
        assert len(token) > 20
        assert httpx.get(plain).status_code == 401
        with httpx.Client(follow_redirects=True) as browser:
            assert "<title>Emit</title>" in browser.get(url).text
            assert browser.get(f"{plain}api/graph").json()["allow"] == ["drop"]
            with browser.stream("GET", f"{plain}api/events") as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith('data: {"at": ')
                process.send_signal(signal.SIGINT)
                # The server closes the stream of a page, which has no end.
                with suppress(httpx.RemoteProtocolError):
                    assert all(line.startswith("data: ") for line in lines if line)
        assert process.wait(60) == 130


def test_the_page_of_a_run(tmp_path: Path) -> None:
    """It is there while the run reads its input, counts what passes, and ends with it."""
    import httpx2 as httpx

    (tmp_path / "app.py").write_text(APP)
    command = [EMIT, "run", "app.router", "-", "--follow", "--ui", "127.0.0.1:0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        url = process.stderr.readline().split()[-1]

        def counted() -> int:
            with httpx.Client() as browser, browser.stream("GET", f"{url}api/events") as stream:
                told = json.loads(next(stream.iter_lines()).removeprefix("data: "))
            return int(told["nodes"]["first"]["calls"])

        assert counted() == 0
        for _ in range(3):
            process.stdin.write('{"n": 1}\n')
        process.stdin.flush()
        eventually(lambda: counted() == 3)
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--bind", "8088"], "--bind must be HOST:PORT"),
        (["--bind", "localhost:99999"], "--bind must be HOST:PORT"),
        (["--allow", "erase"], "--allow takes replay, drop, edit, not erase"),
    ],
)
def test_a_wrong_command_line(words: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    done = subprocess.run(
        [EMIT, "ui", "app.router", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (64, "")
    assert says in done.stderr


# The page in a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def _chromium() -> str:
    import shutil

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found is not None
    return found


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """
    Provide a page that has loaded. At the end nothing was written to its console, and nothing was
    asked of another origin.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 720}, **options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url.split("/")[2]))
    page.set_default_timeout(60_000)
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    yield page
    assert complaints == []
    assert asked == {url.split("/")[2]}
    context.close()


@pytest.fixture
def rain(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a page whose graph is fed while there is the file that is provided, too."""
    (tmp_path / "words.rb").write_text("def words(text:) = text.split\n")
    command = [sys.executable, "-m", "tests.web_page", str(tmp_path)]
    with running(command, tmp_path) as (_, url):
        yield url, tmp_path / "go"


@pytest.mark.requires("chromium", "ruby")
@pytest.mark.slow
def test_a_live_graph(browser: Any, rain: tuple[str, Path], tmp_path: Path) -> None:
    """Nodes work, fail and rest; hostile names and errors stay text; details open by keyboard."""
    url, go = rain
    go.touch()
    with opened(browser, url) as page:
        page.wait_for_selector("[aria-label='words, working']")
        page.wait_for_selector(".node.failing >> text=<imgsrc=xonerror=alert(1)>")
        page.wait_for_selector(".edge[data-load]")
        page.wait_for_selector("#source:has-text('now')")
        assert page.locator("#picture img").count() == 0
        page.locator("[aria-label='words, working']").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#panel h2:has-text('words')")
        page.wait_for_selector("dd:has-text('of 1')")
        from axe_playwright_python.sync_playwright import Axe

        assert Axe().run(page).response["violations"] == []
        if picture := os.environ.get("EMIT_PICTURES"):
            page.wait_for_function("() => document.querySelector('.line').points.length > 3")
            page.screenshot(path=f"{picture}/ui.png")
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        page.keyboard.type("wor")
        page.wait_for_selector(".node.dim >> text=lines")
        page.keyboard.press("Enter")
        page.wait_for_selector("#panel h2:has-text('words')")
        go.unlink()
        page.wait_for_selector("[aria-label='words, quiet']")
    with opened(browser, url, color_scheme="dark") as page:
        assert Axe().run(page).response["violations"] == []


@pytest.mark.requires("chromium", "redis-server")
@pytest.mark.slow
def test_a_letter_is_sent_again(browser: Any, redis: str, tmp_path: Path) -> None:
    """One after an edit, and the rest by three clicks: the cause, its button, the answer."""
    (tmp_path / "app.py").write_text(f"""
from celery import Celery
from emit.router.celery import CeleryRouter
app = Celery("rain", broker={redis!r})
router = CeleryRouter(celery_task=app.task)
router.node(("n",), entry_point=True, name="second")(lambda msg: 1)
""")
    command = [EMIT, "ui", "app.router", "--bind", "127.0.0.1:0", "--allow", "replay,drop,edit"]
    with pytest.importorskip("redis").Redis.from_url(redis) as connection:
        letters = DeadLetters(connection, app="rain")
        route = {"task": "second", "queue": "celery"}
        for n in range(3):
            message = {"n": n, "secret": "s3cret"}
            letters.add(DeadLetter("second", message, (CAUSE,), id=f"m{n}", route=route))
        with running([*command, "--payloads", "--redact", "secret"], tmp_path) as (_, url):
            with opened(browser, url) as page:
                page.wait_for_selector("#dead-count:has-text('3')")
                page.get_by_role("button", name="Dead letters").click()
                page.locator("summary", has_text="KeyError: row #: no <b>key</b>").click()
                page.wait_for_selector("code:has-text('m1')")
                page.locator("summary", has_text="m1").click()
                page.wait_for_selector("pre:has-text('row 17: no <b>key</b>')")
                page.get_by_role("button", name="Show the message").click()
                page.wait_for_selector("pre.message:has-text('\"n\"')")
                if picture := os.environ.get("EMIT_PICTURES"):
                    page.screenshot(path=f"{picture}/ui-dead.png")
                assert "s3cret" not in page.content()
                page.get_by_role("button", name="Edit").click()
                area = page.get_by_label("The message, as JSON")
                area.fill(area.input_value().replace('"n": 1', '"n": 100'))
                page.get_by_role("button", name="Replay the edited message").click()
                page.locator("#question-yes").click()
                page.wait_for_selector("#dead-count:has-text('2')")
                page.get_by_role("button", name="Replay").first.click()
                page.locator("#question-yes").click()
                page.wait_for_selector("text=No dead letters.")
        assert len(letters) == 0
        bodies = [json.loads(each)["body"] for each in connection.lrange("celery", 0, -1)]
        texts = [json.loads(base64.b64decode(body))[0] for body in bodies]
    assert sum('"n":100,"secret":"s3cret"' in str(text) for text in texts) == 1
    assert len(texts) == 3


@pytest.mark.requires("chromium")
@pytest.mark.slow
def test_two_hundred_nodes(browser: Any, tmp_path: Path) -> None:
    """All of them are drawn, and can be found, zoomed and moved."""
    (tmp_path / "app.py").write_text("""
from emit import Router
router = Router()
for number in range(200):
    heard = f"node{number // 3}" if number else None
    options = {"entry_point": True} if not number else {}
    router.node(("n",), *filter(None, [heard]), name=f"node{number}", **options)(lambda msg: 1)
""")
    with running([EMIT, "ui", "app.router", "--bind", "127.0.0.1:0"], tmp_path) as (_, url):
        with opened(browser, url) as page:
            assert page.locator(".node").count() == 200
            before = page.locator("#picture").get_attribute("viewBox")
            page.get_by_role("button", name="Zoom in").click()
            page.keyboard.press("ArrowRight")
            assert page.locator("#picture").get_attribute("viewBox") != before
            page.get_by_role("button", name="All", exact=True).click()
            assert page.locator("#picture").get_attribute("viewBox") == before
            page.get_by_label("Find a node").fill("node199")
            assert page.locator(".node:not(.dim)").count() == 1


CELERY_APP = """
import os
from celery import Celery
from emit import CeleryRouter, ShellNode
from redis import Redis

URL = os.environ["EMIT_TEST_REDIS"]
app = Celery("rain", broker=URL)
app.conf.worker_prefetch_multiplier = 1
router = CeleryRouter(celery_task=app.task, redact=["password"])

@router.node(("word",), entry_point=True, name="words")
def words(msg):
    yield from msg.text.split()

@router.node(("size",), "words", name="length")
class Length(ShellNode):
    file = "length.rb"
    size = 1

@router.node((), "length", name="count")
def count(msg):
    with Redis.from_url(URL) as redis:
        redis.incr("counted")
"""

LENGTH = """
def length(word:)
  raise ArgumentError, 'too loud' if word == 'BOOM'
  word.size
end
"""

FEED = """
import sys
from app import router

for text in sys.argv[1:]:
    router(text=text, password="s3cret")
"""


def figure(page: Any, name: str) -> str:
    """A figure of the node whose details are open."""
    return str(page.locator(f"#panel dt:text-is('{name}') + dd").inner_text())


@pytest.mark.requires("chromium", "redis-server", "ruby")
@pytest.mark.slow
def test_celery_on_two_machines(
    browser: Any, redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The page shows the counts of both workers, their programs, and messages without hidden fields; a
    program that is killed again and again turns red.
    """
    (tmp_path / "app.py").write_text(CELERY_APP)
    (tmp_path / "feed.py").write_text(FEED)
    (tmp_path / "length.rb").write_text(LENGTH)
    monkeypatch.setenv("EMIT_TEST_REDIS", redis)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [EMIT, "ui", "app.router", "--bind", "127.0.0.1:0", "--payloads"]
    options = {"app": "app", "cwd": tmp_path}
    with (
        pytest.importorskip("redis").Redis.from_url(redis) as connection,
        celery_worker(tmp_path / "1", "-n", "a@%h", EMIT_MACHINE="web1", **options) as one,
        celery_worker(tmp_path / "2", "-n", "b@%h", EMIT_MACHINE="web2", **options) as two,
        running(command, tmp_path) as (_, url),
        opened(browser, url) as page,
    ):
        page.wait_for_selector("#source:has-text('2 workers on 2 machines, by Redis, now')")

        def send(*texts: str) -> None:
            subprocess.run([sys.executable, "feed.py", *texts], cwd=tmp_path, check=True)

        send(*["the rain in spain"] * 10)
        eventually(lambda: int(connection.get("counted") or 0) == 40)
        page.locator(".node", has_text="count").last.click()
        page.wait_for_selector("#panel dt:text-is('Messages') + dd:text-is('40')")
        page.get_by_role("button", name="Close").click()
        page.locator(".node", has_text="length").click()
        page.wait_for_selector("#panel dt:text-is('Messages') + dd:text-is('40')")
        assert figure(page, "Failed") == "0"
        page.wait_for_selector("#panel td:text-is('web1')")
        page.wait_for_selector("#panel td:text-is('web2')")
        page.get_by_role("button", name="Close").click()
        page.locator(".node", has_text="words").click()
        page.get_by_role("button", name="Watch the node").click()
        page.wait_for_selector("#panel p:has-text('from 2 workers')")
        send("the rain")
        page.wait_for_selector(".passed .gave:has-text('rain')")
        assert '"password":"[hidden]"' in page.locator(".passed .got").first.inner_text()
        assert "s3cret" not in page.content()
        if picture := os.environ.get("EMIT_PICTURES"):
            page.screenshot(path=f"{picture}/ui-tap.png")
        page.get_by_role("button", name="Stop").click()

        def killed() -> bool:
            send("the rain")
            for worker in (one, two):
                for process in worker.everything():
                    with suppress(psutil.Error):
                        if "ruby" in process.name():
                            process.kill()
            return bool(page.locator("[aria-label='length, failing']").count())

        eventually(killed)
        send("BOOM")

        def told() -> bool:
            """Open the details anew, since the errors are asked for once."""
            page.get_by_role("button", name="Close").click()
            with page.expect_response(lambda answer: "node/errors" in answer.url) as answer:
                page.locator(".node", has_text="length").click()
            return bool(answer.value.json()["errors"])

        eventually(told)
        page.locator("#panel summary", has_text="on web").first.click()
        page.wait_for_selector("#panel pre:has-text('too loud')")
        page.wait_for_selector("#panel pre:has-text('length.rb')")
        two.kill()
        page.wait_for_selector("#source.old:has-text('silent: b@')")
        page.wait_for_selector("#source:has-text('1 worker on 1 machine')")
