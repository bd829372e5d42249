"""HTTP/1.1 to an engine over its Unix socket, one connection for each request.

This is the token path. Every token an engine streams is an HTTP chunk of its own, and a general client spends
more on one (32 microseconds, measured with httpx2) than our whole budget for it; a C parser on an asyncio
stream takes 15. There is no pool: engines close idle connections within seconds, and connecting is cheap.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httptools

READ_BYTES = 1 << 16


class LinkBroken(ConnectionError):
    """The engine could not be reached, or hung up before its answer was complete."""


@dataclass(slots=True)
class Watch:
    """What is seen of answers that an engine owes."""

    waiting: int = 0
    """How many are waited for right now: not those whose readers pause, for what they lack may have been sent."""
    signs: int = 0
    """How often something came."""


class Reply:
    """An answer whose head has arrived."""

    def __init__(self, reader: asyncio.StreamReader, watch: Watch) -> None:
        self._reader = reader
        self._watch = watch
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._head_complete = False
        self._complete = False

    def on_headers_complete(self) -> None:
        """For the parser."""
        self._head_complete = True

    def on_body(self, data: bytes) -> None:
        """For the parser."""
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """For the parser."""
        self._complete = True

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._parser.get_status_code()

    async def receive_head(self) -> None:
        """Wait for the status and the headers."""
        while not self._head_complete:
            await self._feed()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, in pieces of any size."""
        while True:
            if self._chunks:
                data = b"".join(self._chunks)
                self._chunks.clear()
                yield data
            elif self._complete:
                return
            else:
                await self._feed()

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def _feed(self) -> None:
        self._watch.waiting += 1
        try:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise LinkBroken("the engine hung up")
            self._watch.signs += 1
            self._parser.feed_data(data)
        except (OSError, httptools.HttpParserError) as exc:
            raise LinkBroken(str(exc)) from exc
        finally:
            self._watch.waiting -= 1


@asynccontextmanager
async def exchange(
    socket_path: str, path: str, body: bytes | None = None, watch: Watch | None = None
) -> AsyncIterator[Reply]:
    """Send a GET, or a POST of JSON, and own the answer. Leaving hangs up. Raises LinkBroken.

    `watch` sees how it comes along.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(socket_path)
    except OSError as exc:
        raise LinkBroken(str(exc)) from exc
    try:
        writer.write(_request(path, body))
        reply = Reply(reader, watch or Watch())
        await reply.receive_head()
        yield reply
    finally:
        writer.transport.abort()


def _request(path: str, body: bytes | None) -> bytes:
    if body is None:
        return f"GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
