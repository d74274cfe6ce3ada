"""
The page's server: an ASGI application.

Who may do what:

1. Without a token the page answers only a browser on this machine: the address that was asked for
   must be a name of the loopback, since a foreign page can make its own name point there.
2. With a token every request needs it: in a cookie, which the link with ``?token=`` sets, or in the
   header ``Authorization: Bearer``.
3. What changes something must be allowed by name, and is a POST with JSON from the page itself. It
   needs the token, too.
4. Messages are shown only with ``payloads=True``.
5. The page loads nothing from elsewhere and runs no script but its own, as its
   Content-Security-Policy says. It puts all texts into the page as texts.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
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
from emit.errors import EmitError
from emit.exact import to_text
from emit.graph import ENTRY
from emit.router import Router
from emit.web.layout import draw
from emit.web.watch import Watch, describe

__all__ = ["CHANGES", "app"]

#: What a page may be allowed to change.
CHANGES = ("replay", "drop")

#: Seconds between two looks at the figures.
TICK = 1.0

#: Letters in one answer, at most.
_LETTERS = 200

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
    title: str = "",
) -> Starlette:
    """
    Return an ASGI application with the page of a router, for uvicorn, or to be mounted in another
    application. Behind a login of your own, give it a token all the same, and have the proxy add
    the header ``Authorization: Bearer``.

    Args:
        router: The router. Its messages in this process are counted from now on.
        token: What a browser needs to see anything. None: only a browser on this machine may.
        allow: What the page may change: ``replay`` and ``drop`` dead letters. Needs a token.
        payloads: Show the messages of dead letters.
        title: The heading; empty: the name of the router's application.

    Raises:
        ValueError: *allow* has an unknown word, or there is no *token* for it.

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
    page = _Page(router, token, frozenset(allow), payloads, title)
    routes = [
        Route("/", page.index),
        Route("/api/graph", page.graph),
        Route("/api/events", page.events),
        Route("/api/node", page.node),
        Route("/api/dead", page.dead),
        Route("/api/dead/letters", page.letters),
        Route("/api/dead/letter", page.letter),
        Route("/api/dead/replay", page.replay, methods=["POST"]),
        Route("/api/dead/drop", page.drop, methods=["POST"]),
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
        title: str,
    ) -> None:
        self._router = router
        self._token = token
        self._allow = allow
        self._payloads = payloads
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
        return JSONResponse(await run_in_threadpool(describe, name))

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
                told["message"] = to_text(dict(letter.message))
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

    async def _change(
        self, request: Request, what: str, work: Callable[[Any, dict[str, Any]], Any]
    ) -> Response:
        if what not in self._allow:
            return _fault(403, f"{what} is not allowed here: start emit ui with --allow {what}")
        if not _is_from_the_page(request):
            return _fault(403, "only the page itself may ask for this")
        try:
            told = await request.json()
            if not isinstance(told, dict) or not isinstance(told.get("id", told.get("group")), str):
                raise ValueError("it needs an id or a group")
        except ValueError as error:
            return _fault(400, str(error))
        return await self._with_letters(lambda letters: work(letters, told))

    async def _with_letters(self, work: Callable[[Any], Any]) -> Response:
        letters = self._dead_letters()
        if letters is None:
            return _fault(404, "this router keeps no dead letters")
        try:
            return JSONResponse(await run_in_threadpool(work, letters))
        except (EmitError, LookupError) as error:
            return _fault(409, str(error))
        except Exception as error:  # the client's own exception: Redis is away, or refuses
            return _fault(502, f"Redis: {type(error).__name__}: {error}")


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
