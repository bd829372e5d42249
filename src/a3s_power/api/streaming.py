"""Responses that do their work while they are sent, and stop it when the client hangs up."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from a3s_power.api.errors import Dialect, Interrupted, as_app_error


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream that has begun: its chunks, and headers that were not known before."""

    chunks: AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


LAST_WORDS_TIMEOUT_S = 1.0


class Exchange:
    """One client waiting for its response. The request's body must have been read."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.send = send
        self._scope = scope
        self._receive = receive
        self._has_left = False

    async def until_disconnect(self, work: Awaitable[None]) -> None:
        """Do `work`; cancel it when the client hangs up."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, tasks.cancel_scope)
            await work
            tasks.cancel_scope.cancel()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        scope.cancel()

    async def respond(self, response: Response) -> None:
        """Send a whole response."""
        await response(self._scope, self._receive, self.send)

    async def start(self, response: Response) -> None:
        """Send status and headers."""
        await self.send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )

    async def chunk(self, data: bytes, *, is_last: bool = False) -> None:
        """Send a piece of the body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def interrupted(self, dialect: Dialect, *, has_begun: bool) -> None:
        """Being cancelled: tell a client that is still there that it is the server that ends."""
        if self._has_left:
            return
        failure = dialect(Interrupted())
        with anyio.move_on_after(LAST_WORDS_TIMEOUT_S, shield=True):
            if has_begun:
                await self.chunk(failure.in_stream, is_last=True)
            else:
                await self.respond(failure.response())


class EventStream(Response):
    """A stream of chunks. The first one sends the 200: an error before it has a status of its own.

    `open_stream` makes a context manager that is entered when the response is awaited and left however that ends.
    """

    def __init__(
        self, open_stream: Callable[[], AbstractAsyncContextManager[Opened]], dialect: Dialect, media_type: str
    ) -> None:
        super().__init__()
        self.headers["content-type"] = media_type  # as it is: `text/…` would get a charset, which SSE has not
        del self.headers["content-length"]  # of the empty body; the length is unknown
        self._open_stream = open_stream
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as the client wants."""
        exchange = Exchange(scope, receive, send)
        await exchange.until_disconnect(self._send_all(exchange))

    async def _send_all(self, exchange: Exchange) -> None:
        has_begun = False
        try:
            async with self._open_stream() as opened:
                self.headers.update(opened.headers)
                async for chunk in opened.chunks:
                    if not has_begun:
                        has_begun = True
                        await exchange.start(self)
                    await exchange.chunk(chunk)
                    await anyio.lowlevel.checkpoint_if_cancelled()  # a sender that never waits is never cancelled
        except Exception as exc:
            failure = self._dialect(as_app_error(exc))
            if not has_begun:
                return await exchange.respond(failure.response())
            return await exchange.chunk(failure.in_stream, is_last=True)
        except anyio.get_cancelled_exc_class():
            await exchange.interrupted(self._dialect, has_begun=has_begun)
            raise
        if not has_begun:
            await exchange.start(self)
        await exchange.chunk(b"", is_last=True)


class WholeReply(Response):
    """A reply that is sent when its work is done, and whose work stops when the client hangs up."""

    def __init__(self, work: Callable[[], Awaitable[Response]], dialect: Dialect) -> None:
        super().__init__()
        self._work = work
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Work, then send."""
        exchange = Exchange(scope, receive, send)
        await exchange.until_disconnect(self._work_and_send(exchange))

    async def _work_and_send(self, exchange: Exchange) -> None:
        try:
            response = await self._work()
        except Exception as exc:
            response = self._dialect(as_app_error(exc)).response()
        except anyio.get_cancelled_exc_class():
            await exchange.interrupted(self._dialect, has_begun=False)
            raise
        await exchange.respond(response)
