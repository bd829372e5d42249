"""POST /api/pull and /api/push."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.errors import native_work
from a3s_power.api.ollama import fields
from a3s_power.api.ollama.naming import checked_name
from a3s_power.api.ollama.replies import NDJSON
from a3s_power.api.streaming import EventStream, Opened, WholeReply
from a3s_power.errors import InvalidRequest
from a3s_power.service.transfer import Progress, Transfers
from a3s_power.wire import ollama as wire
from a3s_power.wire.gojson import encode

_HOST = r"([\w.-]+|\[[\da-f:.]+\])(:\d{1,5})?"
_REGISTRY = re.compile(rf"(?P<scheme>https?://)?(?P<host>{_HOST})/*", re.ASCII | re.IGNORECASE)

Steps = AbstractAsyncContextManager[AsyncIterator[Progress]]


class TransferAPI:
    """The handlers; `transfers` does the work."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers

    async def pull(self, request: Request) -> Response:
        """POST /api/pull."""
        body = await fields.read(request, wire.PullRequest)
        name = checked_name(body.model or body.name or "", "pull")
        work = partial(self._transfers.pull, name, insecure=bool(body.insecure))
        return _reply(work, is_stream=body.stream is not False)

    async def push(self, request: Request) -> Response:
        """POST /api/push."""
        body = await fields.read(request, wire.PushRequest)
        name = checked_name(body.model or body.name or "", "push")
        host, is_plain = _destination(body.destination)
        work = partial(self._transfers.push, name, insecure=bool(body.insecure) or is_plain, host=host)
        return _reply(work, is_stream=body.stream is not False)


def _destination(url: str | None) -> tuple[str | None, bool]:
    """The host of a registry's base URL, and whether it is asked over plain http."""
    if not url:
        return None, False
    found = _REGISTRY.fullmatch(url)
    if not found:
        raise InvalidRequest(f"destination {url!r} is no registry: expected https://host[:port]")
    return found["host"], found["scheme"] == "http://"


def _reply(work: "partial[Steps]", *, is_stream: bool) -> Response:
    if is_stream:
        return EventStream(partial(_lines, work), native_work, NDJSON)
    return WholeReply(partial(_whole, work), native_work)


@asynccontextmanager
async def _lines(work: "partial[Steps]") -> AsyncIterator[Opened]:
    async with work() as steps:
        yield Opened(encode(_status(step)) + b"\n" async for step in steps)


async def _whole(work: "partial[Steps]") -> Response:
    async with work() as steps:
        async for _ in steps:
            pass
    return Response(encode(wire.StatusReply("success")), media_type="application/json")


def _status(step: Progress) -> wire.StatusReply:
    return wire.StatusReply(step.status, step.digest, step.total, step.completed)
