"""POST /api/embed and /api/embeddings."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.errors import native
from a3s_power.api.ollama import fields
from a3s_power.api.ollama.naming import checked_name, said_by
from a3s_power.api.ollama.replies import JSON, json_reply
from a3s_power.api.requesters import requester_of
from a3s_power.api.streaming import EventStream, Opened, WholeReply
from a3s_power.api.vectors import client_is_to_blame, filled, row_groups
from a3s_power.errors import ContextExceeded, InvalidRequest
from a3s_power.service.embed import Embedded, EmbeddingRequest, EmbedService, Vectors
from a3s_power.wire import ollama as wire
from a3s_power.wire.gojson import encode

TOO_LONG = "the input length exceeds the context length"
_NO_VECTORS = b'"embeddings":[]'  # inside a string the quotes would be escaped


class EmbeddingAPI:
    """The handlers; `service` does the work."""

    def __init__(self, service: EmbedService) -> None:
        self._service = service

    async def embed(self, request: Request) -> Response:
        """POST /api/embed: any number of texts, vectors of length 1."""
        started_ns = time.monotonic_ns()
        body = await fields.read(request, wire.EmbedRequest)
        keep_alive_s, inputs = fields.keep_alive(body.keep_alive), fields.texts(body.input, "invalid input type")
        model = body.model or ""
        wanted = EmbeddingRequest(
            name=checked_name(model, "embed"),
            model=model,
            inputs=inputs,
            options=body.options or {},
            keep_alive_s=keep_alive_s,
            truncate=body.truncate is not False,
            dimensions=body.dimensions or 0,
            requester=requester_of(request, body.priority),
        )
        if not wanted.inputs:
            return WholeReply(partial(self._load, wanted), native)
        return EventStream(partial(self._chunks, wanted, started_ns), native, JSON)

    async def embeddings(self, request: Request) -> Response:
        """POST /api/embeddings: one text, its vector as the model made it."""
        body = await fields.read(request, wire.EmbeddingRequest)
        keep_alive_s = fields.keep_alive(body.keep_alive)
        model = body.model or ""
        wanted = EmbeddingRequest(
            name=checked_name(model, "embeddings"),
            model=model,
            inputs=(body.prompt,) if body.prompt else (),
            options=body.options or {},
            keep_alive_s=keep_alive_s,
            truncate=False,
            normalize=False,
            requester=requester_of(request, body.priority),
        )
        return WholeReply(partial(self._one, wanted), native)

    async def _load(self, wanted: EmbeddingRequest) -> Response:
        with said_by("embed", wanted.model):
            await self._service.load(wanted)
        return json_reply(wire.EmbedReply(wanted.model, []))

    @asynccontextmanager
    async def _chunks(self, wanted: EmbeddingRequest, started_ns: int) -> AsyncIterator[Opened]:
        with said_by("embed", wanted.model), _said(), client_is_to_blame():
            done = await self._service.embed(wanted)
        yield Opened(_encoded(wanted.model, done, started_ns))

    async def _one(self, wanted: EmbeddingRequest) -> Response:
        with said_by("embeddings", wanted.model), _said():
            if not wanted.inputs:
                await self._service.load(wanted)
                return json_reply(wire.EmbeddingReply([]))
            done = await self._service.embed(wanted)
            return json_reply(wire.EmbeddingReply(done.vectors[0].tolist()))


@contextmanager
def _said() -> Iterator[None]:
    """Have a text that is too long told in the words of these endpoints."""
    try:
        yield
    except ContextExceeded as exc:
        raise InvalidRequest(TOO_LONG) from exc


def _encoded(model: str, done: Embedded, started_ns: int) -> AsyncIterator[bytes]:
    frame = wire.EmbedReply(
        model,
        [],
        total_duration=time.monotonic_ns() - started_ns,
        load_duration=done.load_ns,
        prompt_eval_count=done.prompt_tokens,
    )
    return filled(encode(frame), _NO_VECTORS, _vectors_as_json(done.vectors))


def _vectors_as_json(vectors: Vectors) -> Iterator[bytes]:
    """Arrays of vectors, their numbers as short as a float32 can be told."""
    for _, rows in row_groups(vectors):
        yield orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
