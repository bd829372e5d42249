"""POST /api/chat and /api/generate."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.errors import native
from a3s_power.api.ollama import fields
from a3s_power.api.ollama.naming import checked_name
from a3s_power.api.streaming import EventStream, WholeReply
from a3s_power.generation import (
    ChatInput,
    Done,
    Event,
    GenerationRequest,
    PromptInput,
    Text,
    Thinking,
    TokenLogprob,
    ToolCalls,
)
from a3s_power.messages import ToolCall
from a3s_power.service.chat import ChatService, Generation
from a3s_power.wire import ollama as wire
from a3s_power.wire.gojson import encode

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"


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
            **_common(body),
        )
        checked_name(wanted.model, "chat")
        return self._answer(wanted, _chat_reply, is_stream=body.stream is not False, is_empty=not body.messages)

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
                context=tuple(body.context or ()),
                images=fields.images(body.images),
                raw=bool(body.raw),
            ),
            **_common(body),
        )
        checked_name(wanted.model, "generate")
        return self._answer(wanted, _generate_reply, is_stream=body.stream is not False, is_empty=not body.prompt)

    def _answer(self, wanted: GenerationRequest, shape: "Shape", *, is_stream: bool, is_empty: bool) -> Response:
        """Text, or, for a request without a prompt, a model that is loaded or unloaded."""
        started_ns = time.monotonic_ns()
        if is_empty:
            return WholeReply(partial(self._load_or_unload, wanted, shape), native, JSON)
        if is_stream:
            return EventStream(partial(self._lines, wanted, shape, started_ns), native, NDJSON)
        return WholeReply(partial(self._whole, wanted, shape, started_ns), native, JSON)

    async def _load_or_unload(self, wanted: GenerationRequest, shape: "Shape") -> bytes:
        if wanted.keep_alive_s == 0:
            await self._service.unload(wanted.model)
            return encode(shape(wanted.model, Piece(), Ending("unload")))
        await self._service.load(wanted)
        return encode(shape(wanted.model, Piece(), Ending("load")))

    @asynccontextmanager
    async def _lines(
        self, wanted: GenerationRequest, shape: "Shape", started_ns: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._service.open(wanted) as generation:
            yield _encoded_lines(wanted, shape, generation, started_ns)

    async def _whole(self, wanted: GenerationRequest, shape: "Shape", started_ns: int) -> bytes:
        async with self._service.open(wanted) as generation:
            pieces, ending = [], Ending("")
            async for piece, end in _told(wanted, generation, started_ns):
                pieces.append(piece)
                ending = end or ending
            return encode(shape(wanted.model, Piece.joined(pieces), ending))


def _common(body: wire.ChatRequest | wire.GenerateRequest) -> dict[str, Any]:
    """What both requests say alike, as fields of a GenerationRequest."""
    return {
        "options": body.options or {},
        "output_format": fields.output_format(body.format),
        "think": fields.think(body.think),
        "keep_alive_s": fields.keep_alive(body.keep_alive),
        "top_logprobs": fields.top_logprobs(body.logprobs, body.top_logprobs),
    }


@dataclass(frozen=True, slots=True)
class Piece:
    """What one line of a stream adds to the answer."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def joined(cls, pieces: "list[Piece]") -> "Piece":
        """All of them as one."""
        return cls(
            "".join(piece.text for piece in pieces),
            "".join(piece.thinking for piece in pieces),
            tuple(call for piece in pieces for call in piece.calls),
            tuple(logprob for piece in pieces for logprob in piece.logprobs),
        )


@dataclass(frozen=True, slots=True)
class Ending:
    """What the last line tells besides; durations in nanoseconds."""

    done_reason: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    context: tuple[int, ...] = ()


Shape = Callable[[str, Piece, Ending | None], wire.Reply]
"""The client's spelling of the model, what is new, and the ending on the last line → that line."""


async def _encoded_lines(
    wanted: GenerationRequest, shape: Shape, generation: Generation, started_ns: int
) -> AsyncIterator[bytes]:
    async for piece, ending in _told(wanted, generation, started_ns):
        yield encode(shape(wanted.model, piece, ending)) + b"\n"


async def _told(
    wanted: GenerationRequest, generation: Generation, started_ns: int
) -> AsyncIterator[tuple[Piece, Ending | None]]:
    """Events as pieces; the last comes with the ending."""
    said: list[str] = []
    async for event in generation.events:
        if isinstance(event, Done):
            ending = _ending(event, generation.load_ns, started_ns)
            yield Piece(), replace(ending, context=await _context(wanted, generation, said))
        else:
            piece = _piece(event)
            said.append(piece.text)
            yield piece, None


def _piece(event: Event) -> Piece:
    match event:
        case Text(text, logprobs):
            return Piece(text=text, logprobs=logprobs)
        case Thinking(text, logprobs):
            return Piece(thinking=text, logprobs=logprobs)
        case ToolCalls(calls):
            return Piece(calls=calls)
        case Done():
            raise AssertionError("an ending is no piece")


def _ending(done: Done, load_ns: int, started_ns: int) -> Ending:
    metrics = {
        "total_duration": time.monotonic_ns() - started_ns,
        "load_duration": load_ns,
        "prompt_eval_count": done.usage.prompt_tokens,
        "prompt_eval_duration": done.timings.prompt_ns,
        "eval_count": done.usage.completion_tokens,
        "eval_duration": done.timings.completion_ns,
    }
    return Ending(done.finish_reason.value, metrics)


async def _context(wanted: GenerationRequest, generation: Generation, said: list[str]) -> tuple[int, ...]:
    """The tokens of prompt and answer, for `/api/generate` to go on from; none for `raw` and chat."""
    if not isinstance(wanted.input, PromptInput) or wanted.input.raw or generation.prompt is None:
        return ()
    return tuple(await generation.runner.tokenize(generation.prompt + "".join(said)))


# ---- replies ----


def _chat_reply(model: str, piece: Piece, ending: Ending | None) -> wire.ChatReply:
    message = wire.MessageReply("assistant", piece.text, piece.thinking, [_call(call) for call in piece.calls])
    ending = ending or Ending("")
    return wire.ChatReply(
        model=model,
        created_at=utc_now(),
        message=message,
        done=bool(ending.done_reason),
        done_reason=ending.done_reason,
        logprobs=[_logprob(logprob) for logprob in piece.logprobs],
        **ending.metrics,
    )


def _generate_reply(model: str, piece: Piece, ending: Ending | None) -> wire.GenerateReply:
    ending = ending or Ending("")
    return wire.GenerateReply(
        model=model,
        created_at=utc_now(),
        response=piece.text,
        thinking=piece.thinking,
        done=bool(ending.done_reason),
        done_reason=ending.done_reason,
        context=list(ending.context),
        tool_calls=[_call(call) for call in piece.calls],
        logprobs=[_logprob(logprob) for logprob in piece.logprobs],
        **ending.metrics,
    )


def _call(call: ToolCall) -> wire.ToolCallReply:
    function = wire.ToolCallFunctionReply(call.index, call.name, dict(call.arguments))
    return wire.ToolCallReply(function, call.id)


def _logprob(entry: TokenLogprob) -> wire.TokenLogprobReply:
    return wire.TokenLogprobReply(
        entry.token, entry.logprob, list(entry.bytes), [_logprob(other) for other in entry.top]
    )


def utc_now() -> str:
    """RFC 3339 with Z, nanoseconds less their trailing zeros."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{_date_and_time(seconds)}{fraction}Z"


@lru_cache(maxsize=2)  # every token has a time of its own, and formatting this much of it costs 3 microseconds
def _date_and_time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
