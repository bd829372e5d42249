"""The routes, as one ASGI application."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

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


class Endpoint:
    """One path: a handler for each method, and a dialect for what they raise."""

    def __init__(self, dialect: Dialect, handlers: Mapping[str, Handler]) -> None:
        self._dialect = dialect
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and log it when it is over: a first token waits for no log."""
        started = time.monotonic()
        request = Request(scope, receive)
        response = await self._respond(request)
        try:
            await response(scope, receive, send)
        finally:
            log.info(
                "request",
                extra={
                    "method": request.method,
                    "path": scope["path"],
                    "status": response.status_code,
                    "client": request.client.host if request.client else "",
                    "took_s": round(time.monotonic() - started, 3),
                },
            )

    async def _respond(self, request: Request) -> Response:
        handler = self._handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(method for method in METHODS if method in self._handlers)
            return PlainTextResponse("405 method not allowed", 405, {"Allow": allowed})
        try:
            return await handler(request)
        except Exception as exc:
            return self._dialect(as_app_error(exc)).response()


def create_app(chat: ChatService, library: Library) -> Router:
    """All that is served over HTTP. A bare router: endpoints answer for their errors themselves."""
    generation, models, ops = GenerationAPI(chat), ModelsAPI(library), OpsAPI(library)
    native_routes: Mapping[str, Mapping[str, Handler]] = {
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
    routes = [Route(path, Endpoint(native, handlers)) for path, handlers in native_routes.items()]
    return Router(routes, default=PlainTextResponse("404 page not found", 404, {"Content-Type": "text/plain"}))
