"""
The page's server: an ASGI application.

Who may do what:

1. Without a token the page answers only a browser on this machine: the address that was asked for
   must be a name of the loopback, since a foreign page can make its own name point there.
2. With a token every request needs it: in a cookie, which the link with ``?token=`` sets, or in the
   header ``Authorization: Bearer``.
3. What changes something must be allowed by name, and is a POST with JSON from the page itself. It
   needs the token, too.
4. Messages are shown only with ``payloads=True``, and never the fields of ``redact``.
5. The page loads nothing from elsewhere and runs no script but its own, as its
   Content-Security-Policy says. It puts all texts into the page as texts.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from emit.drawing.formats import tag
from emit.drawing.outline import outline
from emit.errors import EmitError, GraphError
from emit.exact import to_json, to_text
from emit.graph import ENTRY
from emit.letter import DeadLetter
from emit.observe.looks import Wish
from emit.observe.tap import HIDDEN, Point, hide, point
from emit.router import Router
from emit.text import one_line
from emit.web.layout import draw
from emit.web.settings import settings_of
from emit.web.tap import Tapping
from emit.web.watch import STEP, Watch

__all__ = ["CHANGES", "app"]

_log = logging.getLogger("emit.web")

#: What a page may be allowed to change.
CHANGES = ("replay", "drop", "edit")

#: Seconds between two looks at the figures.
TICK = 1.0

#: Letters in one answer, at most.
_LETTERS = 200

#: Taps at a time, seconds until one ends by itself, and the most messages a second that it shows.
_TAPS, _TAPPED, _RATE = 5, 60.0, 10.0

#: Seconds between two looks of a tap.
_PULSE = 0.5

_STATIC = Path(__file__).parent / "static"

#: Names of this machine for itself.
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_COOKIE = "emit_token"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def app(
    router: Router,
    *,
    token: str | None = None,
    allow: Collection[str] = (),
    payloads: bool = False,
    redact: Iterable[str] = (),
    title: str = "",
) -> Starlette:
    """
    Return an ASGI application with the page of a router, for uvicorn, or to be mounted in another
    application. Behind a login of your own, give it a token all the same, and have the proxy add
    the header ``Authorization: Bearer``.

    Args:
        router: The router.
        token: What a browser needs to see anything. None: only a browser on this machine may.
        allow: What the page may change: ``replay`` and ``drop`` dead letters, and ``edit`` the
            message of one before it is sent again. Needs a token. ``edit`` needs *payloads*, too.
        payloads: Show messages: those of dead letters, and those that pass.
        redact: Names of fields to hide in messages, beside the router's own.
        title: The heading; empty: the name of the router's application.

    Raises:
        ValueError: *allow* has an unknown word, or lacks a *token* or *payloads*.

    Example:
        >>> from starlette.applications import Starlette
        >>> from starlette.routing import Mount
        >>> whole = Starlette(routes=[Mount("/emit", app=app(router, token="a long secret"))])
    """
    unknown = set(allow) - set(CHANGES)
    if unknown:
        raise ValueError(f"allow takes {', '.join(CHANGES)}; unknown: {', '.join(sorted(unknown))}")
    if allow and not token:
        raise ValueError(f"allow = {', '.join(allow)} needs a token: whoever has it may do that")
    if "edit" in allow and not payloads:
        raise ValueError("allow = edit needs payloads: nobody can edit what is not shown")
    page = _Page(router, token, frozenset(allow), payloads, redact, title)
    routes = [
        Route("/", page.index),
        Route("/api/graph", page.graph),
        Route("/api/events", page.events),
        Route("/api/node", page.node),
        Route("/api/node/errors", page.errors),
        Route("/api/tap", page.tap),
        Route("/api/dead", page.dead),
        Route("/api/dead/letters", page.letters),
        Route("/api/dead/letter", page.letter),
        Route("/api/dead/replay", page.replay, methods=["POST"]),
        Route("/api/dead/drop", page.drop, methods=["POST"]),
        Route("/api/dead/edit", page.edit, methods=["POST"]),
        Mount("/static", app=StaticFiles(directory=_STATIC)),
    ]
    served = Starlette(routes=routes)
    served.add_middleware(_Guard, page=page)
    return served


class _Guard:
    """Refuses who may not see the page, and adds the headers of safety."""

    def __init__(self, app: Any, page: _Page) -> None:
        self._app = app
        self._page = page

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def send_safely(message: Any) -> None:
            if message["type"] == "http.response.start":
                named = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *named]}
            await send(message)

        answer = self._page.refusal(request) or self._page.entry(request)
        await (answer or self._app)(scope, receive, send_safely)


class _Page:
    def __init__(
        self,
        router: Router,
        token: str | None,
        allow: frozenset[str],
        payloads: bool,
        redact: Iterable[str],
        title: str,
    ) -> None:
        self._router = router
        self._token = token
        self._allow = allow
        self._payloads = payloads
        self._redact = frozenset(name.lower() for name in (*router.redact, *redact))
        self._taps = 0
        celery = getattr(router, "celery_app", None)
        self._title = title or getattr(celery, "main", None) or "Emit"
        self._watch = Watch(router)
        self._looking = threading.Lock()
        self._looked = 0.0
        self._figures: dict[str, Any] = {}

    # -- who may ---------------------------------------------------------------------------

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that may not pass; None if it may."""
        if not self._token:
            if request.url.hostname in _LOOPBACK and _is_here(request):
                return None
            return PlainTextResponse("without a token this page is for this machine only\n", 403)
        given = request.cookies.get(_COOKIE, "")
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = bearer.strip()
        if _same(given or request.query_params.get("token", ""), self._token):
            return None
        return PlainTextResponse("open the link with the token that emit ui has printed\n", 401)

    def entry(self, request: Request) -> Response | None:
        """Return the answer to the link with the token: a cookie, and the page without it."""
        if self._token is None or "token" not in request.query_params or request.method != "GET":
            return None
        answer = RedirectResponse(str(request.url.remove_query_params("token")), 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(_COOKIE, self._token, httponly=True, samesite="strict", secure=secure)
        return answer

    # -- what there is ---------------------------------------------------------------------

    async def index(self, request: Request) -> Response:
        return Response((_STATIC / "index.html").read_bytes(), media_type="text/html")

    async def graph(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._graph))

    def _graph(self) -> dict[str, Any]:
        seen = outline(self._router)
        entry = [ENTRY] if seen.heard(ENTRY) else []
        drawing = draw([*entry, *seen.nodes], [(e.origin, e.destination) for e in seen.edges])
        nodes = [
            {
                "name": node.name,
                "language": node.language,
                "tag": tag(node),
                "foreign": node.foreign,
                "fields": node.shown,
                "reached": node.reached,
                **drawing.nodes[node.name]._asdict(),
            }
            for node in seen.nodes.values()
        ]
        edges = [
            {
                "origin": edge.origin,
                "node": edge.destination,
                "pattern": edge.pattern,
                "fields": seen.fields_of(edge),
                "path": path,
            }
            for edge, path in zip(seen.edges, drawing.paths, strict=True)
        ]
        return {
            "title": self._title,
            "width": drawing.width,
            "height": drawing.height,
            "entry": drawing.nodes[ENTRY]._asdict() if entry else None,
            "nodes": nodes,
            "edges": edges,
            "allow": sorted(self._allow),
            "payloads": self._payloads,
            "dead": self._dead_letters() is not None,
        }

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self._stream(request), media_type="text/event-stream")

    async def _stream(self, request: Request) -> AsyncIterator[str]:
        while not await request.is_disconnected():
            figures = await run_in_threadpool(self.look)
            yield f"data: {json.dumps(figures)}\n\n"
            await asyncio.sleep(TICK)

    def look(self) -> dict[str, Any]:
        """Return the figures, at most `TICK` old: many pages cost as much as one."""
        with self._looking:
            if time.monotonic() - self._looked >= TICK * 0.9:
                self._figures, self._looked = self._watch.look(), time.monotonic()
            return self._figures

    async def node(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        if name not in self._router.names:
            return _fault(404, f"there is no node {name!r}")
        return JSONResponse(await run_in_threadpool(self._node, name))

    async def errors(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        if name not in self._router.names:
            return _fault(404, f"there is no node {name!r}")
        return JSONResponse(await run_in_threadpool(self._watch.describe, name))

    def _node(self, name: str) -> dict[str, Any]:
        seen = outline(self._router)
        return {
            "settings": settings_of(self._router, name),
            "processes": self._watch.processes(name),
            "history": self._watch.history(name),
            "step": STEP,
            "gets": [
                {"origin": edge.origin, "fields": seen.fields_of(edge)}
                for edge in seen.edges
                if edge.destination == name
            ],
        }

    # -- the tap ---------------------------------------------------------------------------

    async def tap(self, request: Request) -> Response:
        if not self._payloads:
            return _fault(403, "messages are not shown here: start emit ui with --payloads")
        if self._taps >= _TAPS:
            return _fault(429, f"{_TAPS} taps are on already: close one")
        try:
            where = point(request.query_params.get("point", ""), self._router)
        except GraphError as error:
            return _fault(404, str(error))
        return StreamingResponse(self._tapped(request, where), media_type="text/event-stream")

    async def _tapped(self, request: Request, where: Point) -> AsyncIterator[str]:
        wish = Wish(
            f"page-{secrets.token_hex(8)}",
            points=[[where.node, where.origin]],
            redact=sorted(self._redact),
            rate=_RATE,
        )
        self._taps += 1
        tap = Tapping(wish, self._router, self._watch)
        try:
            end = time.monotonic() + _TAPPED
            while time.monotonic() < end and not await request.is_disconnected():
                seen = await run_in_threadpool(tap.take)
                told = [{**each.passed._asdict(), "machine": each.machine} for each in seen]
                yield f"data: {json.dumps({'seen': told, 'watched': tap.watched})}\n\n"
                await asyncio.sleep(_PULSE)
            yield 'data: {"over": true}\n\n'
        except EmitError as error:
            yield f"data: {json.dumps({'fault': str(error)})}\n\n"
        finally:
            self._taps -= 1
            # Not in a thread pool: the page may be gone, and this task cancelled.
            tap.close()

    # -- dead letters ----------------------------------------------------------------------

    def _dead_letters(self) -> Any:
        return getattr(self._router, "dead_letters", None)

    async def dead(self, request: Request) -> Response:
        return await self._with_letters(
            lambda letters: [group._asdict() for group in letters.groups(**_choice(request))]
        )

    async def letters(self, request: Request) -> Response:
        def listed(letters: Any) -> Any:
            found = letters.list(limit=_LETTERS + 1, **_choice(request))
            entries = [
                {**e._asdict(), "cause": e.cause and f"{e.cause.type}: {e.cause.text}"}
                for e in found[:_LETTERS]
            ]
            return {"letters": entries, "more": len(found) > _LETTERS}

        return await self._with_letters(listed)

    async def letter(self, request: Request) -> Response:
        def shown(letters: Any) -> Any:
            letter = letters.show(request.query_params.get("id", ""))
            causes = [vars(cause) for cause in letter.causes]
            told = {
                "id": letter.id,
                "node": letter.node,
                "origin": letter.origin,
                "attempts": letter.attempts,
                "at": letter.at,
                "causes": causes,
                "fields": sorted(letter.message),
            }
            if self._payloads and request.query_params.get("message"):
                told["message"] = _shown(letter.message, self._redact)
                told["editable"] = (
                    "edit" in self._allow and to_json(dict(letter.message)) is not None
                )
            return told

        return await self._with_letters(shown)

    async def replay(self, request: Request) -> Response:
        def again(letters: Any, told: dict[str, Any]) -> Any:
            send = self._router.resend  # type: ignore[attr-defined]
            if "id" in told:
                letters.replay(told["id"], send)
                return {"sent": 1, "failed": {}}
            done = letters.replay_all(send, group=told["group"])
            return {"sent": len(done.sent), "failed": {k: str(v) for k, v in done.failed.items()}}

        return await self._change(request, "replay", again)

    async def drop(self, request: Request) -> Response:
        def gone(letters: Any, told: dict[str, Any]) -> Any:
            if "id" in told:
                letters.drop(told["id"])
                return {"dropped": 1}
            return {"dropped": letters.drop_all(group=told["group"])}

        return await self._change(request, "drop", gone)

    async def edit(self, request: Request) -> Response:
        def again(letters: Any, told: dict[str, Any]) -> Any:
            edited = json.loads(told["message"])

            def send(letter: DeadLetter) -> None:
                message = _merged(edited, dict(letter.message), self._redact)
                changed = {n for n in {*message, *letter.message} if _differs(n, message, letter)}
                self._router.resend(replace(letter, message=message))  # type: ignore[attr-defined]
                named = one_line(", ".join(sorted(map(str, changed)))) or "none"
                text = "dead letter %s was sent again from the page, with changed fields: %s"
                _log.warning(text, letter.id, named)

            letters.replay(told["id"], send)
            return {"sent": 1, "failed": {}}

        return await self._change(request, "edit", again, needs=("id", "message"))

    async def _change(
        self,
        request: Request,
        what: str,
        work: Callable[[Any, dict[str, Any]], Any],
        needs: Collection[str] = (),
    ) -> Response:
        if what not in self._allow:
            return _fault(403, f"{what} is not allowed here: start emit ui with --allow {what}")
        if not _is_from_the_page(request):
            return _fault(403, "only the page itself may ask for this")
        try:
            told = await request.json()
            if not isinstance(told, dict) or not isinstance(told.get("id", told.get("group")), str):
                raise ValueError("it needs an id or a group")
            if not all(isinstance(told.get(name), str) for name in needs):
                raise ValueError(f"it needs {' and '.join(needs)}")
        except ValueError as error:
            return _fault(400, str(error))
        return await self._with_letters(lambda letters: work(letters, told))

    async def _with_letters(self, work: Callable[[Any], Any]) -> Response:
        letters = self._dead_letters()
        if letters is None:
            return _fault(404, "this router keeps no dead letters")
        try:
            return JSONResponse(await run_in_threadpool(work, letters))
        except (EmitError, LookupError, ValueError) as error:
            return _fault(409, str(error))
        except Exception as error:  # the client's own exception: Redis is away, or refuses
            return _fault(502, f"Redis: {type(error).__name__}: {error}")


def _shown(message: Mapping[str, Any], names: frozenset[str]) -> str:
    """Return a message as text: JSON in lines if that is exact, else that of `emit.exact`."""
    shown = hide(dict(message), names) if names else dict(message)
    if to_json(shown) is None:
        return to_text(shown)
    return json.dumps(shown, ensure_ascii=False, indent=2)


def _merged(edited: Any, kept: Any, names: frozenset[str]) -> Any:
    """
    Return an edited message with its hidden values put back.

    Raises:
        ValueError: It is not a map, or something hidden is where nothing was hidden.
    """
    if not isinstance(edited, dict):
        raise ValueError("a message is a map of fields")
    hidden = hide(kept, names)

    def merge(new: Any, shown: Any, old: Any) -> Any:
        if new == HIDDEN and new is not None:
            if shown == HIDDEN:
                return old
            raise ValueError(f"{HIDDEN} stands where nothing was hidden: write a value")
        if isinstance(new, dict):
            shown, old = (each if isinstance(each, dict) else {} for each in (shown, old))
            return {name: merge(new[name], shown.get(name), old.get(name)) for name in new}
        if isinstance(new, list):
            shown, old = (each if isinstance(each, list) else [] for each in (shown, old))
            beside = zip_longest(new, shown[: len(new)], old[: len(new)])
            return [merge(*each) for each in beside]
        return new

    merged: dict[str, Any] = merge(edited, hidden, kept)
    return merged


def _differs(name: str, message: Mapping[str, Any], letter: DeadLetter) -> bool:
    has = name in message, name in letter.message
    return has != (True, True) or message[name] != letter.message[name]


def _fault(code: int, text: str) -> Response:
    return JSONResponse({"error": text}, code)


def _choice(request: Request) -> dict[str, Any]:
    """Return the parameters that choose letters, as `DeadLetters` takes them."""
    given = request.query_params
    found: dict[str, Any] = {name: given[name] for name in ("node", "group") if given.get(name)}
    if given.get("since"):
        found["since"] = float(given["since"])
    return found


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _is_here(request: Request) -> bool:
    """Return whether the client is on this machine. A unix socket has no address."""
    return request.client is None or request.client.host in ("127.0.0.1", "::1", "testclient")


def _is_from_the_page(request: Request) -> bool:
    """Return whether a browser has sent this from our own page, and not from another one."""
    origin = request.headers.get("origin")
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":  # a form of another page can't have this
        return False
    return origin is None or urlsplit(origin).netloc == request.url.netloc
