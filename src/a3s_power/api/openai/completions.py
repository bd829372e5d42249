"""POST /v1/completions: texts that go on, as it was done before there were chats."""

import codecs
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.bodies import read_compressed
from a3s_power.api.ollama import fields
from a3s_power.api.ollama.naming import checked_name
from a3s_power.api.openai.chatreplies import FINGERPRINT
from a3s_power.api.openai.errors import InvalidParameter, UnsupportedParameter, openai_work
from a3s_power.api.openai.parameters import choice_count, go_type, logit_bias, options, priority
from a3s_power.api.openai.writing import json_reply
from a3s_power.api.requesters import requester_of
from a3s_power.api.sse import EVENT_STREAM, data_frame
from a3s_power.api.streaming import EventStream, Opened, WholeReply
from a3s_power.generation import JSON, Done, GenerationRequest, PromptInput, Text, TokenLogprob
from a3s_power.requester import Requester
from a3s_power.service.chat import ChatService
from a3s_power.service.choices import Told, choices, variants
from a3s_power.wire import openai as wire
from a3s_power.wire.gojson import encode

MAX_TEXTS = 128
"""Of one request: `n` for each prompt."""

ABSENT: JSON = {"temperature": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
"""What Ollama sends for a text that says nothing, whatever the model's parameters are."""

NO_USAGE = wire.Usage(0, 0, 0)
"""In the chunks before the last, as Ollama has it."""


class CompletionsAPI:
    """The handler; `service` does the work."""

    def __init__(self, service: ChatService) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await read_compressed(request, wire.CompletionRequest)
        reply = _Reply(self._service, body, requester_of(request, priority(body)))
        if body.stream:
            return EventStream(reply.events, openai_work, EVENT_STREAM)
        return WholeReply(reply.whole, openai_work)


# ---- the request ----


def _wanted(body: wire.CompletionRequest, requester: Requester) -> GenerationRequest:
    """What is wanted for each prompt."""
    model = body.model or ""
    if body.echo and body.logprobs is not None:
        raise UnsupportedParameter("echo", "'echo' together with 'logprobs'")  # the engine has none of a prompt
    body.top_p = body.top_p or None  # 0 stands for nothing here, as in Ollama
    return GenerationRequest(
        model=model,
        input=PromptInput(""),
        options=options(body, body.max_tokens, _stop(body.stop), ABSENT),
        keep_alive_s=fields.keep_alive(body.keep_alive),
        top_logprobs=fields.top_logprobs(body.logprobs is not None, body.logprobs),
        logit_bias=logit_bias(body.logit_bias),
        requester=requester,
        name=checked_name(model, "generate"),
    )


def _stop(value: object) -> list[str]:
    given: list[Any] = [] if value is None else value if isinstance(value, list) else [value]
    for text in given:
        if not isinstance(text, str):
            raise InvalidParameter(f"invalid type for 'stop' field: {go_type(text)}", "stop")
    return given


_KINDS: Mapping[type, str] = {bool: "bool", int: "number", float: "number", dict: "object", list: "array"}


def _prompts(body: wire.CompletionRequest) -> tuple[str, ...]:
    """One, or several of which each gets its texts; none for an empty one. Tokens are refused, as by Ollama."""
    kind = _KINDS.get(type(body.prompt))
    prompts = fields.texts(
        body.prompt, f"json: cannot unmarshal {kind} into Go struct field CompletionRequest.prompt of type string"
    )
    if choice_count(body.n) * len(prompts) > MAX_TEXTS:
        raise InvalidParameter(f"prompt and n must not ask for more than {MAX_TEXTS} texts", "prompt")
    return prompts


# ---- the reply ----


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is new of one choice."""

    index: int
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None

    @classmethod
    def joined(cls, pieces: Sequence["_Piece"]) -> "_Piece":
        """All of one choice as one."""
        return cls(
            pieces[0].index,
            "".join(piece.text for piece in pieces),
            tuple(entry for piece in pieces for entry in piece.logprobs),
            pieces[-1].finish_reason,
        )


class _Rows:
    """The logprobs of one choice as rows, which tell where in its text each token begins."""

    def __init__(self) -> None:
        self._offset = 0
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")  # a token may hold a part of one

    def of(self, entries: Sequence[TokenLogprob]) -> wire.CompletionLogprobs:
        """The next rows."""
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._characters.decode(entry.bytes))
        return wire.CompletionLogprobs(
            [entry.token for entry in entries],
            [entry.logprob for entry in entries],
            [{row.token: row.logprob for row in (*entry.top, entry)} for entry in entries],
            offsets,
        )


class _Reply:
    """The reply to one request, in one of its forms."""

    def __init__(self, service: ChatService, body: wire.CompletionRequest, requester: Requester) -> None:
        self._service = service
        self._body = body
        self._id = f"cmpl-{secrets.randbelow(10**9)}"
        self._prompts = _prompts(body)
        self._count = choice_count(body.n)
        """How many choices for each prompt; their indices go on from one prompt to the next."""
        self._wanted = _wanted(body, requester)
        self._rows: dict[int, _Rows] = defaultdict(_Rows)
        self._endings: dict[int, Done] = {}

    async def whole(self) -> Response:
        """All at once."""
        told: dict[int, list[_Piece]] = defaultdict(list)
        async with self._open() as pieces:
            async for piece in pieces:
                told[piece.index].append(piece)
        whole = [self._choice(_Piece.joined(told[index])) for index in sorted(told)]
        return json_reply(self._shaped(whole, self._usage()))

    @asynccontextmanager
    async def events(self) -> AsyncIterator[Opened]:
        """Piece by piece."""
        async with self._open() as pieces:
            yield Opened(self._frames(pieces))

    async def _frames(self, pieces: AsyncIterator[_Piece]) -> AsyncIterator[bytes]:
        options = self._body.stream_options
        tells_usage = options is not None and bool(options.include_usage)
        usage = NO_USAGE if tells_usage else None
        async for piece in pieces:
            yield data_frame(encode(self._shaped([self._choice(piece)], usage)))
        if tells_usage:
            yield data_frame(encode(self._shaped([], self._usage())))
        yield data_frame(b"[DONE]")

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[AsyncIterator[_Piece]]:
        if not self._prompts:
            yield _only(_Piece(0, finish_reason=await self._load_or_unload()))
        elif self._body.debug_render_only:
            await self._service.preview(self._asked(self._prompts[0]))
            yield _only(_Piece(0))
        else:
            requests = (variants(self._asked(prompt), self._count) for prompt in self._prompts)
            async with choices(self._service, [*chain.from_iterable(requests)]) as events:
                yield self._told(events)

    def _asked(self, prompt: str) -> GenerationRequest:
        return replace(self._wanted, input=PromptInput(prompt, self._body.suffix or ""))

    async def _load_or_unload(self) -> str:
        """For a request without a prompt."""
        if self._wanted.keep_alive_s == 0:
            await self._service.unload(self._wanted)
            return "unload"
        await self._service.load(self._wanted)
        return "load"

    async def _told(self, events: AsyncIterator[Told]) -> AsyncIterator[_Piece]:
        """Events as pieces; thoughts are not told."""
        echoes = [prompt for prompt in self._prompts for _ in range(self._count)] if self._body.echo else []
        unsaid = dict(enumerate(echoes))
        async for index, event in events:
            match event:
                case Text(text, logprobs):
                    yield _Piece(index, unsaid.pop(index, "") + text, logprobs)
                case Done():
                    self._endings[index] = event
                    yield _Piece(index, unsaid.pop(index, ""), finish_reason=event.finish_reason.value)

    def _usage(self) -> wire.Usage:
        """What all texts together cost, when they have ended. A prompt counts once, with its first text."""
        spent = [self._endings[index].usage for index in sorted(self._endings)]
        prompt_tokens = sum(usage.prompt_tokens for usage in spent[:: self._count])
        completion_tokens = sum(usage.completion_tokens for usage in spent)
        cached = wire.PromptTokensDetails(sum(usage.cached_tokens for usage in spent[:: self._count]))
        return wire.Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens, cached)

    def _choice(self, piece: _Piece) -> wire.CompletionChoice:
        rows = self._rows[piece.index].of(piece.logprobs) if piece.logprobs else None
        if rows and not self._body.logprobs:
            rows.top_logprobs = None
        return wire.CompletionChoice(piece.text, piece.index, piece.finish_reason, rows)

    def _shaped(self, told: list[wire.CompletionChoice], usage: wire.Usage | None) -> wire.CompletionReply:
        return wire.CompletionReply(
            self._id, "text_completion", int(time.time()), self._wanted.model, FINGERPRINT, told, usage
        )


async def _only(piece: _Piece) -> AsyncIterator[_Piece]:
    yield piece
