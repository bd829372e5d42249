"""Replies of long work: a line for each step, or only the last."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from starlette.responses import Response

from a3s_power.api.errors import native_work
from a3s_power.api.ollama.replies import NDJSON
from a3s_power.api.streaming import EventStream, Opened, WholeReply
from a3s_power.progress import Progress
from a3s_power.wire import ollama as wire
from a3s_power.wire.gojson import encode

Work = Callable[[], AbstractAsyncContextManager[AsyncIterator[Progress]]]


def progress_reply(work: Work, stream: bool | None) -> Response:
    """Do the work, and tell its steps as it goes unless `stream` is false."""
    if stream is False:
        return WholeReply(partial(_whole, work), native_work)
    return EventStream(partial(_lines, work), native_work, NDJSON)


@asynccontextmanager
async def _lines(work: Work) -> AsyncIterator[Opened]:
    async with work() as steps:
        yield Opened(encode(_line(step)) + b"\n" async for step in steps)


async def _whole(work: Work) -> Response:
    async with work() as steps:
        async for _ in steps:
            pass
    return Response(encode(wire.StatusReply("success")), media_type="application/json")


def _line(step: Progress) -> wire.StatusReply:
    return wire.StatusReply(step.status, step.digest, step.total, step.completed)
