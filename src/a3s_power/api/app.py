"""The routes, as one ASGI application."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from a3s_power.api.access import Access
from a3s_power.api.errors import Dialect, as_app_error, native
from a3s_power.api.ollama.generation import GenerationAPI
from a3s_power.api.ollama.models import ModelsAPI
from a3s_power.api.ops import OpsAPI
from a3s_power.service.chat import ChatService
from a3s_power.service.library import Library

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

METHODS = ("HEAD", "GET", "POST", "DELETE")
"""In the order in which `Allow` lists them."""
LEFT = 499
"""In the log: the client left before it had an answer (nginx's number, which Ollama uses too)."""


class Application:
    """All that is served over HTTP: routes behind a guard, a log line each, and an end to all requests at once."""

    def __init__(self, chat: ChatService, library: Library, access: Access) -> None:
        self._access = access
        self._router = Router(_routes(chat, library), default=_plain(404, "404 page not found"))
        self._running: set[anyio.CancelScope] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and log it when it is over: a first token waits for no log."""
        started, status = time.monotonic(), LEFT
        headers = Headers(scope=scope)

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in self._access.grants(headers).items():
                    message["headers"].append((name.lower().encode(), value.encode()))
            await send(message)

        try:
            with self._interruptible():
                refusal = self._access.refuses(scope["method"], headers)
                await (refusal or self._router)(scope, receive, send if refusal else send_noting)
                status = refusal.status_code if refusal else status
        finally:
            fields = {"method": scope["method"], "path": scope["path"], "status": status}
            log.info("request", extra=fields | {"took_s": round(time.monotonic() - started, 3)})

    def interrupt(self) -> None:
        """End every request: each still gets an answer, or its stream a last word."""
        for running in self._running:
            running.cancel()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        with anyio.CancelScope() as scope:
            self._running.add(scope)
            try:
                yield
            finally:
                self._running.discard(scope)


class Resource:
    """One path: a handler for each method, and a dialect for what they raise."""

    def __init__(self, dialect: Dialect, handlers: Mapping[str, Handler]) -> None:
        self._dialect = dialect
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        try:
            response = await self._respond(Request(scope, receive))
        except ClientDisconnect:
            return  # in the middle of its body; nobody reads an answer
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        handler = self._handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(method for method in METHODS if method in self._handlers)
            return _plain(405, "405 method not allowed", Allow=allowed)
        try:
            return await handler(request)
        except ClientDisconnect:
            raise
        except Exception as exc:
            return self._dialect(as_app_error(exc)).response()


def _routes(chat: ChatService, library: Library) -> list[Route]:
    generation, models, ops = GenerationAPI(chat), ModelsAPI(library), OpsAPI(library)
    in_native_words: Mapping[str, Mapping[str, Handler]] = {
        "/": {"GET": ops.root, "HEAD": ops.root},
        "/health": {"GET": ops.health},
        "/api/version": {"GET": ops.version, "HEAD": ops.version},
        "/api/tags": {"GET": models.tags, "HEAD": models.tags},
        "/api/ps": {"GET": models.ps},
        "/api/show": {"POST": models.show},
        "/api/generate": {"POST": generation.generate},
        "/api/chat": {"POST": generation.chat},
        "/api/create": {"POST": models.create},
        "/api/copy": {"POST": models.copy},
        "/api/delete": {"DELETE": models.delete},
        "/api/blobs/{digest}": {"POST": models.receive_blob, "HEAD": models.has_blob},
    }
    return [Route(path, Resource(native, handlers)) for path, handlers in in_native_words.items()]


def _plain(status: int, text: str, **headers: str) -> PlainTextResponse:
    """Go's way to say so: no charset, no newline."""
    return PlainTextResponse(text, status, {"Content-Type": "text/plain", **headers})
