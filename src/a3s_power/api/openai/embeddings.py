"""POST /v1/embeddings."""

import base64
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.bodies import read_compressed
from a3s_power.api.ollama import fields
from a3s_power.api.ollama.naming import checked_name, said_by
from a3s_power.api.openai.errors import InvalidParameter, openai_work
from a3s_power.api.openai.parameters import priority
from a3s_power.api.openai.writing import JSON, json_line
from a3s_power.api.requesters import requester_of
from a3s_power.api.streaming import EventStream, Opened
from a3s_power.api.vectors import client_is_to_blame, filled, row_groups
from a3s_power.service.embed import Embedded, EmbeddingRequest, EmbedService, Vectors
from a3s_power.wire import openai as wire

Vector = Any
"""One row of Vectors."""

_NO_ITEMS = b'"data":[]'  # inside a string the quotes would be escaped


class EmbeddingsAPI:
    """The handler; `service` does the work."""

    def __init__(self, service: EmbedService) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """POST /v1/embeddings: any number of texts, vectors of length 1."""
        body = await read_compressed(request, wire.EmbeddingsRequest)
        written = _format(body.encoding_format or "float")
        inputs, model = _inputs(body.input), body.model or ""
        wanted = EmbeddingRequest(
            name=checked_name(model, "embed"),
            model=model,
            inputs=inputs,
            options=body.options or {},
            keep_alive_s=fields.keep_alive(body.keep_alive),
            dimensions=body.dimensions or 0,
            requester=requester_of(request, priority(body)),
        )
        return EventStream(partial(self._chunks, wanted, written), openai_work, JSON)

    @asynccontextmanager
    async def _chunks(self, wanted: EmbeddingRequest, written: "Written") -> AsyncIterator[Opened]:
        with said_by("embed", wanted.model), client_is_to_blame():
            done = await self._service.embed(wanted)
        yield Opened(_encoded(wanted.model, done, written))


# ---- the request ----


def _inputs(value: object) -> tuple[str, ...]:
    """One text or several, of which there must be one.

    Tokens are refused, as they are by Ollama. They would have to be the model's own, and those that clients send
    unasked are OpenAI's: their numbers mean other words to any model here, and its vectors would mean nothing.
    """
    if value == "":
        return ("",)
    inputs = fields.texts(value, "invalid input type")
    if not inputs:
        raise InvalidParameter("invalid input", "input")
    return inputs


def _format(name: str) -> "Written":
    written = FORMATS.get(name.lower())
    if written is None:
        message = f"Invalid value for 'encoding_format' = {name}. Supported values: {list(FORMATS)}."
        raise InvalidParameter(message, "encoding_format")
    return written


# ---- the reply ----


def _as_base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


Written = Callable[[Vector], object]

FORMATS: Mapping[str, Written] = {
    "float": lambda vector: vector,  # orjson writes it, its numbers as short as a float32 can be told
    "base64": _as_base64,
}
"""How a vector is written."""


def _encoded(model: str, done: Embedded, written: Written) -> AsyncIterator[bytes]:
    usage = wire.EmbeddingsUsage(done.prompt_tokens, done.prompt_tokens)
    frame = json_line(wire.EmbeddingsReply("list", [], model, usage))
    return filled(frame, _NO_ITEMS, _items(done.vectors, written))


def _items(vectors: Vectors, written: Written) -> Iterator[bytes]:
    """Arrays of objects, one for each vector."""
    for start, rows in row_groups(vectors):
        items = [
            {"object": "embedding", "embedding": written(vector), "index": index}
            for index, vector in enumerate(rows, start)
        ]
        yield orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)
