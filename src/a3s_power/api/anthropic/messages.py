"""POST /v1/messages and /v1/messages/count_tokens."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.anthropic import reading
from a3s_power.api.anthropic.errors import REQUEST_ID, anthropic, anthropic_work, new_request_id
from a3s_power.api.anthropic.estimate import estimated_tokens
from a3s_power.api.anthropic.replies import Asked, whole
from a3s_power.api.anthropic.stream import MessageStream
from a3s_power.api.bodies import read_compressed
from a3s_power.api.imageurls import fetch, in_anthropic
from a3s_power.api.requesters import requester_of
from a3s_power.api.sse import EVENT_STREAM, event_frame
from a3s_power.api.streaming import EventStream, Opened, WholeReply
from a3s_power.generation import ChatInput, GenerationRequest
from a3s_power.service.chat import ChatService, Generation
from a3s_power.service.imageurls import ImageUrls
from a3s_power.wire import anthropic as wire
from a3s_power.wire.gojson import encode

STREAMED = {"Cache-Control": "no-cache", "Connection": "keep-alive"}


class MessagesAPI:
    """The handlers; `service` does the work."""

    def __init__(self, service: ChatService, urls: ImageUrls) -> None:
        self._service = service
        self._urls = urls

    async def create(self, request: Request) -> Response:
        """POST /v1/messages."""
        body = await read_compressed(request, wire.MessagesRequest)
        requester = requester_of(request, body.priority)

        def reply() -> Response:
            asked = Asked(body.model or "", body.stop_sequences or ())
            wanted = replace(reading.generation(body), requester=requester)
            made = _Reply(self._service, wanted, asked)
            return made.streamed() if body.stream else made.whole()

        return self._with_pictures(body, reply)

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens."""
        body = await read_compressed(request, wire.CountTokensRequest)
        requester = requester_of(request, body.priority)

        def reply() -> Response:
            wanted = replace(reading.prompt(body), requester=requester)
            return _Reply(self._service, wanted, Asked(body.model or "")).counted()

        return self._with_pictures(body, reply)

    def _with_pictures(self, body: wire.CountTokensRequest, reply: Callable[[], Response]) -> Response:
        """The reply, once pictures by URL are there: part of the work, which ends when the client leaves."""
        pictures = in_anthropic(message.content for message in body.messages or ())
        if not pictures or not self._urls.is_on:
            return reply()

        async def work() -> Response:
            await fetch(pictures, self._urls)
            return reply()

        return WholeReply(work, anthropic)


class _Reply:
    """The reply to one request, in one of its forms."""

    def __init__(self, service: ChatService, wanted: GenerationRequest, asked: Asked) -> None:
        self._service = service
        self._wanted = wanted
        self._asked = asked
        self._request_id = new_request_id()
        self._dialect = anthropic_work(self._request_id)

    def whole(self) -> Response:
        """All at once."""
        return WholeReply(self._whole, self._dialect)

    def streamed(self) -> Response:
        """As it is made."""
        return EventStream(self._stream, self._dialect, EVENT_STREAM)

    def counted(self) -> Response:
        """Not made at all: only the tokens of its prompt are told."""
        return WholeReply(self._count, self._dialect)

    async def _whole(self) -> Response:
        async with self._service.open(await self._possible()) as generation:
            return self._json(whole(self._asked, [event async for event in generation.events]))

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[Opened]:
        async with self._service.open(await self._possible()) as generation:
            yield Opened(self._frames(generation), {REQUEST_ID: self._request_id, **STREAMED})

    async def _count(self) -> Response:
        return self._json(wire.CountTokensReply(await self._service.count(await self._possible())))

    async def _possible(self) -> GenerationRequest:
        """The request, less thoughts that the model cannot have: agents ask all models for them alike."""
        if self._wanted.think and "thinking" not in await self._service.capabilities(self._wanted):
            return replace(self._wanted, think=None, thinking_budget=None)
        return self._wanted

    async def _frames(self, generation: Generation) -> AsyncIterator[bytes]:
        assert isinstance(self._wanted.input, ChatInput)
        stream = MessageStream(self._asked, estimated_tokens(self._wanted.input))
        async for event in generation.events:
            if told := stream.tell(event):
                yield b"".join(event_frame(each.name, encode(each)) for each in told)

    def _json(self, reply: wire.MessagesReply | wire.CountTokensReply) -> Response:
        return Response(encode(reply) + b"\n", 200, {REQUEST_ID: self._request_id}, "application/json")
