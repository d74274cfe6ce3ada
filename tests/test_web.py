"""The page of ``emit ui``: who may see what, and what there is to see in a browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from emit import Router
from emit.dead import DeadLetters
from emit.letter import Cause, DeadLetter
from tests.hosts import ROOT
from tests.test_cli import EMIT

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from emit.web import app, layout

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
    with pytest.raises(ValueError, match="allow takes replay, drop; unknown: erase"):
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
    assert client().get("/api/node", params={"name": "first"}).json()["errors"] == []


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


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--bind", "8088"], "--bind must be HOST:PORT"),
        (["--bind", "localhost:99999"], "--bind must be HOST:PORT"),
        (["--allow", "erase"], "--allow takes replay, drop, not erase"),
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
    """Three clicks: the cause, its button, the answer to the question."""
    (tmp_path / "app.py").write_text(f"""
from celery import Celery
from emit.router.celery import CeleryRouter
app = Celery("rain", broker={redis!r})
router = CeleryRouter(celery_task=app.task)
router.node(("n",), entry_point=True, name="second")(lambda msg: 1)
""")
    command = [EMIT, "ui", "app.router", "--bind", "127.0.0.1:0", "--allow", "replay,drop"]
    with pytest.importorskip("redis").Redis.from_url(redis) as connection:
        letters = DeadLetters(connection, app="rain")
        route = {"task": "second", "queue": "celery"}
        for n in range(2):
            letters.add(DeadLetter("second", {"n": n}, (CAUSE,), id=f"m{n}", route=route))
        with running([*command, "--payloads"], tmp_path) as (_, url):
            with opened(browser, url) as page:
                page.wait_for_selector("#dead-count:has-text('2')")
                page.get_by_role("button", name="Dead letters").click()
                page.locator("summary", has_text="KeyError: row #: no <b>key</b>").click()
                page.wait_for_selector("code:has-text('m1')")
                page.locator("summary", has_text="m1").click()
                page.wait_for_selector("pre:has-text('row 17: no <b>key</b>')")
                page.get_by_role("button", name="Show the message").click()
                page.wait_for_selector("pre.message:has-text('\"n\"')")
                if picture := os.environ.get("EMIT_PICTURES"):
                    page.screenshot(path=f"{picture}/ui-dead.png")
                page.get_by_role("button", name="Replay").first.click()
                page.locator("#question-yes").click()
                page.wait_for_selector("text=No dead letters.")
        assert len(letters) == 0
        assert connection.llen("celery") == 2


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
