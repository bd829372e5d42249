"""The routes, as one ASGI application."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import compile_path
from starlette.types import Message, Receive, Scope, Send

from a3s_power.api.access import Access
from a3s_power.api.anthropic.errors import anthropic
from a3s_power.api.anthropic.messages import MessagesAPI
from a3s_power.api.errors import Dialect, as_app_error, native
from a3s_power.api.ollama import cloud
from a3s_power.api.ollama.embedding import EmbeddingAPI
from a3s_power.api.ollama.generation import GenerationAPI
from a3s_power.api.ollama.models import ModelsAPI
from a3s_power.api.ollama.space import SpaceAPI
from a3s_power.api.ollama.transfer import TransferAPI
from a3s_power.api.openai.audio import TranscriptionsAPI
from a3s_power.api.openai.chat import ChatAPI
from a3s_power.api.openai.completions import CompletionsAPI
from a3s_power.api.openai.embeddings import EmbeddingsAPI
from a3s_power.api.openai.errors import openai
from a3s_power.api.openai.models import OpenAIModelsAPI
from a3s_power.api.openapi import openapi
from a3s_power.api.ops import OpsAPI
from a3s_power.api.reference import docs
from a3s_power.service.chat import ChatService
from a3s_power.service.embed import EmbedService
from a3s_power.service.imageurls import ImageUrls
from a3s_power.service.library import Library
from a3s_power.service.pulling import Pulls
from a3s_power.service.pushing import Pushes
from a3s_power.service.space import Space

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

METHODS = ("HEAD", "GET", "POST", "DELETE")
"""In the order in which `Allow` lists them."""
LEFT = 499
"""In the log: the client left before it had an answer (nginx's number, which Ollama uses too)."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes lead to."""

    chat: ChatService
    embed: EmbedService
    library: Library
    pulls: Pulls
    pushes: Pushes
    space: Space
    image_urls: ImageUrls


class Application:
    """All that is served over HTTP: routes behind a guard, a log line each, and an end to all requests at once."""

    def __init__(self, services: Services, access: Access) -> None:
        self._access = access
        self._router = Router(_resources(services))
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

    def allows(self, method: str) -> bool:
        """Whether there is a handler for it."""
        return method in self._handlers

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


class Router:
    """Paths → resources, as gin has it: a path is decoded, then matched whole and in its case.

    `{model}` is a name, which may hold slashes; what else is in braces is one segment. A slash too many at the end
    redirects, but only where the method is at home: it leads to no 405. Where it leads is always a path of ours:
    no redirect sends anyone to another host.
    """

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._resources = [
            (compile_path(path.replace("{model}", "{model:path}"))[0], resource)
            for path, resource in resources.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        path, method = scope["path"], scope["method"]
        if found := self._find(path):
            resource, params = found
            await resource({**scope, "path_params": params}, receive, send)
        elif path.endswith("/") and (found := self._find(path[:-1])) and found[0].allows(method):
            await _moved(path[:-1], scope)(scope, receive, send)
        else:
            await _plain(404, "404 page not found")(scope, receive, send)

    def _find(self, path: str) -> tuple[Resource, Mapping[str, str]] | None:
        if path.endswith("/") and path != "/":
            return None
        for pattern, resource in self._resources:
            if match := pattern.fullmatch(path):  # not `match`: it would take `/api/tags%0A` too
                return resource, match.groupdict()
        return None


def _resources(services: Services) -> Mapping[str, Resource]:
    """Every path, in the order in which they are tried."""
    generation, embedding = GenerationAPI(services.chat), EmbeddingAPI(services.embed)
    models, ops = ModelsAPI(services.library), OpsAPI(services.library)
    transfer, space = TransferAPI(services.pulls, services.pushes), SpaceAPI(services.space)
    openai_models = OpenAIModelsAPI(services.library)
    in_native_words: Mapping[str, Mapping[str, Handler]] = {
        "/": {"GET": ops.root, "HEAD": ops.root},
        "/health": {"GET": ops.health},
        "/openapi.json": {"GET": openapi},
        "/docs": {"GET": docs},
        "/api/version": {"GET": ops.version, "HEAD": ops.version},
        "/api/status": {"GET": cloud.status},
        "/api/tags": {"GET": models.tags, "HEAD": models.tags},
        "/api/ps": {"GET": models.ps},
        "/api/show": {"POST": models.show},
        "/api/generate": {"POST": generation.generate},
        "/api/chat": {"POST": generation.chat},
        "/api/embed": {"POST": embedding.embed},
        "/api/embeddings": {"POST": embedding.embeddings},
        "/api/create": {"POST": models.create},
        "/api/pull": {"POST": transfer.pull},
        "/api/push": {"POST": transfer.push},
        "/api/copy": {"POST": models.copy},
        "/api/delete": {"DELETE": models.delete},
        "/api/blobs/{digest}": {
            "GET": space.blob,
            "HEAD": models.has_blob,
            "POST": models.receive_blob,
            "DELETE": space.delete_blob,
        },
        "/api/df": {"GET": space.df},
        "/api/prune": {"POST": space.prune},
        "/api/me": {"POST": cloud.me},
        "/api/signout": {"POST": cloud.signout},
        "/api/user/keys/{encoded_key}": {"DELETE": cloud.signout},
        "/api/experimental/web_search": {"POST": cloud.web_search},
        "/api/experimental/web_fetch": {"POST": cloud.web_fetch},
        "/api/experimental/model-recommendations": {"GET": cloud.recommendations},
    }
    in_openai_words: Mapping[str, Mapping[str, Handler]] = {
        "/v1/chat/completions": {"POST": ChatAPI(services.chat, services.image_urls).create},
        "/v1/completions": {"POST": CompletionsAPI(services.chat).create},
        "/v1/embeddings": {"POST": EmbeddingsAPI(services.embed).create},
        "/v1/models": {"GET": openai_models.list_all},
        "/v1/models/{model}": {"GET": openai_models.retrieve},
        "/v1/audio/transcriptions": {"POST": TranscriptionsAPI(services.library).create},
    }
    messages = MessagesAPI(services.chat, services.image_urls)
    in_anthropic_words: Mapping[str, Mapping[str, Handler]] = {
        "/v1/messages": {"POST": messages.create},
        "/v1/messages/count_tokens": {"POST": messages.count_tokens},
    }
    words = ((native, in_native_words), (openai, in_openai_words), (anthropic, in_anthropic_words))
    return {
        path: Resource(dialect, handlers) for dialect, resources in words for path, handlers in resources.items()
    }


def _moved(path: str, scope: Scope) -> Response:
    """Permanently for GET; for all others in the way that keeps the method and the body."""
    query = scope["query_string"].decode("latin-1")
    location = quote(path, safe="/$&+,:;=@") + (f"?{query}" if query else "")  # what Go leaves as it is in a path
    return Response(status_code=301 if scope["method"] == "GET" else 307, headers={"Location": location})


def _plain(status: int, text: str, **headers: str) -> PlainTextResponse:
    """Go's way to say so: no charset, no newline."""
    return PlainTextResponse(text, status, {"Content-Type": "text/plain", **headers})
