"""POST /v1/chat/completions."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.bodies import read_compressed
from a3s_power.api.imageurls import Named, fetch, in_openai
from a3s_power.api.openai.chatreplies import ChunkWriter, Head, preview, whole
from a3s_power.api.openai.chatrequest import generation_request
from a3s_power.api.openai.errors import openai_work
from a3s_power.api.openai.parameters import choice_count, priority
from a3s_power.api.openai.writing import json_reply
from a3s_power.api.requesters import requester_of
from a3s_power.api.sse import EVENT_STREAM, data_frame
from a3s_power.api.streaming import EventStream, Opened, WholeReply
from a3s_power.generation import Event
from a3s_power.requester import Requester
from a3s_power.service.chat import ChatService
from a3s_power.service.choices import Told, choices, variants
from a3s_power.service.imageurls import ImageUrls
from a3s_power.wire import openai as wire
from a3s_power.wire.gojson import encode
from a3s_power.wire.ollama import DebugInfo


class ChatAPI:
    """The handler; `service` does the work."""

    def __init__(self, service: ChatService, urls: ImageUrls) -> None:
        self._service = service
        self._urls = urls

    async def create(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await read_compressed(request, wire.ChatCompletionRequest)
        requester = requester_of(request, priority(body))
        pictures = in_openai(message.content for message in body.messages or ())
        if pictures and self._urls.is_on:
            return WholeReply(partial(self._with_pictures, body, requester, pictures), openai_work)
        return _Reply(self._service, body, requester).response()

    async def _with_pictures(
        self, body: wire.ChatCompletionRequest, requester: Requester, pictures: Sequence[Named]
    ) -> Response:
        """As part of the work, which ends when the client leaves."""
        await fetch(pictures, self._urls)
        return _Reply(self._service, body, requester).response()


class _Reply:
    """The reply to one request, in one of its forms."""

    def __init__(self, service: ChatService, body: wire.ChatCompletionRequest, requester: Requester) -> None:
        self._service = service
        self._body = body
        self._count = choice_count(body.n)
        self._wanted = replace(generation_request(body), requester=requester)
        self._head = Head(self._wanted.model)

    def response(self) -> Response:
        """The answer: streamed or whole, or what would be asked."""
        if self._body.debug_render_only:
            return WholeReply(self._preview, openai_work)
        if self._body.stream:
            return EventStream(self._stream, openai_work, EVENT_STREAM)
        return WholeReply(self._whole, openai_work)

    async def _preview(self) -> Response:
        seen = await self._service.preview(self._wanted)
        return json_reply(preview(self._head, DebugInfo(seen.prompt, seen.image_count)))

    async def _whole(self) -> Response:
        events: list[list[Event]] = [[] for _ in range(self._count)]
        async with choices(self._service, variants(self._wanted, self._count)) as told:
            async for index, event in told:
                events[index].append(event)
        return json_reply(whole(self._head, events))

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[Opened]:
        async with choices(self._service, variants(self._wanted, self._count)) as told:
            yield Opened(self._frames(told))

    async def _frames(self, told: AsyncIterator[Told]) -> AsyncIterator[bytes]:
        writer = ChunkWriter(self._head, self._count)
        opening = writer.opening()
        async for index, event in told:
            chunk = writer.of(index, event)
            # Not before there is something to tell: what fails first still has a status of its own.
            if frames := b"".join(data_frame(encode(each)) for each in (*opening, chunk) if each):
                yield frames
            opening = []
        if self._body.stream_options and self._body.stream_options.include_usage:
            yield data_frame(encode(writer.used()))
        yield data_frame(b"[DONE]")
