"""Responses that do their work while they are sent, and stop it when the client hangs up."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from a3s_power.api.errors import Dialect, as_app_error
from a3s_power.errors import AppError

Chunks = AbstractAsyncContextManager[AsyncIterator[bytes]]

LAST_WORDS_TIMEOUT_S = 1.0


class Interrupted(AppError):
    """The server ends before the stream does."""


async def until_disconnect(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`; cancel it when the client hangs up. The request's body must have been read."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_on_disconnect, receive, tasks.cancel_scope)
        await work()
        tasks.cancel_scope.cancel()


async def _cancel_on_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


class EventStream(Response):
    """A stream of chunks. The first one sends the 200: an error before it has a status of its own.

    `open_chunks` makes a context manager that is entered when the response is awaited and left however that ends.
    """

    def __init__(self, open_chunks: Callable[[], Chunks], dialect: Dialect, media_type: str) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]  # of the empty body; the length is unknown
        self._open_chunks = open_chunks
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as the client wants."""
        await until_disconnect(receive, partial(self._send_all, scope, receive, send))

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False
        try:
            async with self._open_chunks() as chunks:
                async for chunk in chunks:
                    if not has_begun:
                        has_begun = True
                        await self._send_start(send)
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Exception as exc:
            failure = self._dialect(as_app_error(exc))
            if not has_begun:
                self.status_code = failure.status
                return await failure.response()(scope, receive, send)
            await send({"type": "http.response.body", "body": failure.in_stream, "more_body": True})
        except anyio.get_cancelled_exc_class():
            if has_begun:
                await self._send_last_words(send)
            raise
        if not has_begun:
            await self._send_start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _send_last_words(self, send: Send) -> None:
        """The server is ending, or the client has gone, which then hears nothing of this."""
        words = self._dialect(Interrupted("the server is shutting down")).in_stream
        with anyio.move_on_after(LAST_WORDS_TIMEOUT_S, shield=True):
            await send({"type": "http.response.body", "body": words, "more_body": False})


class WholeReply(Response):
    """A reply that is sent when its work is done, and whose work stops when the client hangs up."""

    def __init__(self, work: Callable[[], Awaitable[bytes]], dialect: Dialect, media_type: str) -> None:
        super().__init__(media_type=media_type)
        self._work = work
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Work, then send."""
        await until_disconnect(receive, partial(self._work_and_send, scope, receive, send))

    async def _work_and_send(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = Response(await self._work(), media_type=self.media_type)
        except Exception as exc:
            response = self._dialect(as_app_error(exc)).response()
            self.status_code = response.status_code
        await response(scope, receive, send)
