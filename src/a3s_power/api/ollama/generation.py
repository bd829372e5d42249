"""POST /api/chat and /api/generate."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.errors import native, native_stream
from a3s_power.api.ollama import fields, replies
from a3s_power.api.ollama.naming import checked_name
from a3s_power.api.ollama.replies import NDJSON, Ending, Piece, json_reply
from a3s_power.api.requesters import requester_of
from a3s_power.api.streaming import EventStream, Opened, WholeReply
from a3s_power.generation import (
    CallPart,
    ChatInput,
    Done,
    GenerationRequest,
    PromptInput,
    Text,
    Thinking,
    ToolCalls,
)
from a3s_power.service.chat import ChatService, Generation
from a3s_power.wire import ollama as wire
from a3s_power.wire.gojson import encode

TRUNCATED = {"X-A3S-Power-Truncated": "true"}
"""On a reply to a conversation whose oldest messages were left out."""


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """Where the two differ: the shapes of their replies."""

    line: Callable[[str, Piece, Ending], wire.Reply]
    """The client's spelling of the model, what is new, and the ending → a line, or the whole reply."""
    preview: Callable[[str, wire.DebugInfo], wire.Reply]


_CHAT = _Endpoint(replies.chat_line, replies.chat_preview)
_GENERATE = _Endpoint(replies.generate_line, replies.generate_preview)


class GenerationAPI:
    """The handlers; `service` does the work."""

    def __init__(self, service: ChatService) -> None:
        self._service = service

    async def chat(self, request: Request) -> Response:
        """POST /api/chat."""
        body = await fields.read(request, wire.ChatRequest)
        wanted = GenerationRequest(
            model=body.model or "",
            input=ChatInput(tuple(map(fields.message, body.messages or ())), body.tools or ()),
            **_common(request, body),
            name=checked_name(body.model or "", "chat"),
        )
        reply = _Reply(self._service, wanted, _CHAT)
        return reply.about_model() if not body.messages else reply.of(body)

    async def generate(self, request: Request) -> Response:
        """POST /api/generate."""
        body = await fields.read(request, wire.GenerateRequest)
        wanted = GenerationRequest(
            model=body.model or "",
            input=PromptInput(
                prompt=body.prompt or "",
                suffix=body.suffix or "",
                system=body.system or None,
                template=body.template or None,
                context=None if body.context is None else tuple(body.context),
                images=fields.images(body.images),
                raw=bool(body.raw),
            ),
            **_common(request, body),
            name=checked_name(body.model or "", "generate"),
        )
        reply = _Reply(self._service, wanted, _GENERATE)
        return reply.about_model() if not body.prompt else reply.of(body)


def _common(request: Request, body: wire.ChatRequest | wire.GenerateRequest) -> dict[str, Any]:
    """What both requests say alike, as fields of a GenerationRequest."""
    return {
        "options": body.options or {},
        "output_format": None if body.format == "" else body.format,
        "think": fields.think(body.think),
        "keep_alive_s": fields.keep_alive(body.keep_alive),
        "top_logprobs": fields.top_logprobs(body.logprobs, body.top_logprobs),
        "may_truncate": body.truncate is not False,
        "requester": requester_of(request, body.priority),
    }


class _Reply:
    """The reply to one request, in one of its forms."""

    def __init__(self, service: ChatService, wanted: GenerationRequest, endpoint: _Endpoint) -> None:
        self._service = service
        self._wanted = wanted
        self._endpoint = endpoint
        self._started_ns = time.monotonic_ns()

    def of(self, body: wire.ChatRequest | wire.GenerateRequest) -> Response:
        """The answer: streamed or whole, or what would be asked."""
        if body.debug_render_only:
            return WholeReply(self._preview, native)
        if body.stream is not False:
            return EventStream(self._lines, native_stream, NDJSON)
        return WholeReply(self._whole, native)

    def about_model(self) -> Response:
        """For a request without a prompt: the model is loaded, or let go."""
        return WholeReply(self._load_or_unload, native)

    async def _load_or_unload(self) -> Response:
        if self._wanted.keep_alive_s == 0:
            await self._service.unload(self._wanted)
            return json_reply(self._line(Piece(), Ending("unload")))
        await self._service.load(self._wanted)
        return json_reply(self._line(Piece(), Ending("load")))

    async def _preview(self) -> Response:
        preview = await self._service.preview(self._wanted)
        return json_reply(
            self._endpoint.preview(self._wanted.model, wire.DebugInfo(preview.prompt, preview.image_count))
        )

    async def _whole(self) -> Response:
        async with self._service.open(self._wanted) as generation:
            told = [piece_and_ending async for piece_and_ending in self._told(generation)]
            pieces = [piece for piece, _ in told]
            return json_reply(self._line(Piece.joined(pieces), told[-1][1]), headers=_headers(generation))

    @asynccontextmanager
    async def _lines(self) -> AsyncIterator[Opened]:
        async with self._service.open(self._wanted) as generation:
            chunks = (encode(self._line(*told)) + b"\n" async for told in self._told(generation))
            yield Opened(chunks, _headers(generation))

    def _line(self, piece: Piece, ending: Ending) -> wire.Reply:
        return self._endpoint.line(self._wanted.model, piece, ending)

    async def _told(self, generation: Generation) -> AsyncIterator[tuple[Piece, Ending]]:
        """Events as pieces; the last has the ending."""
        async for event in generation.events:
            if isinstance(event, Done):
                yield Piece(), await self._ending(event, generation)
            elif not isinstance(event, CallPart):
                yield _piece(event), Ending()

    async def _ending(self, done: Done, generation: Generation) -> Ending:
        given = self._wanted.input
        has_context = isinstance(given, PromptInput) and not given.raw
        metrics = {
            "total_duration": time.monotonic_ns() - self._started_ns,
            "load_duration": generation.load_ns,
            "prompt_eval_count": done.usage.prompt_tokens,
            "prompt_eval_duration": done.timings.prompt_ns,
            "eval_count": done.usage.completion_tokens,
            "eval_duration": done.timings.completion_ns,
        }
        context = await generation.context() if has_context else ()
        return Ending(done.finish_reason.value, metrics, context, generation.is_truncated)


def _piece(event: Text | Thinking | ToolCalls) -> Piece:
    match event:
        case Text(text, logprobs):
            return Piece(text=text, logprobs=logprobs)
        case Thinking(text, logprobs):
            return Piece(thinking=text, logprobs=logprobs)
        case ToolCalls(calls):
            return Piece(calls=calls)


def _headers(generation: Generation) -> dict[str, str]:
    return TRUNCATED if generation.is_truncated else {}
