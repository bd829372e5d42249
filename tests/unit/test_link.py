"""HTTP to an engine over its socket: whatever the other end does, the answer is whole or the link is broken."""

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest

from a3s_power.runner.link import READ_BYTES, LinkBroken, exchange

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FIVE = HEAD + b"Content-Length: 5\r\n\r\n"


class Peer:
    """A server that reads one request, writes what it is told and then hangs up, or waits until we do."""

    def __init__(self, path, answer, *, lingers=False):
        self.path = str(path)
        self.request = b""
        self.was_left = anyio.Event()
        self._answer = answer
        self._lingers = lingers

    async def handle(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((line[15:] for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), b"0")
            self.request = head + await reader.readexactly(int(length))
            for piece in self._answer:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if self._lingers:
                await reader.read()
        except ConnectionError:
            pass
        finally:
            self.was_left.set()
            writer.close()


@pytest.fixture
def listening(short_tmp):
    @asynccontextmanager
    async def _listening(*answer, lingers=False):
        peer = Peer(short_tmp / "s.sock", answer, lingers=lingers)
        async with await asyncio.start_unix_server(peer.handle, peer.path):
            yield peer

    return _listening


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        ([FIVE + b"hello"], 200, b"hello"),
        ([FIVE, b"he", b"llo"], 200, b"hello"),
        ([bytes([byte]) for byte in FIVE + b"hello"], 200, b"hello"),                       # byte for byte
        ([HEAD + b"Content-Length: 0\r\n\r\n"], 200, b""),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b""),
        ([b"HTTP/1.1 503 \r\nContent-Length: 2\r\n\r\n{}"], 503, b"{}"),
        ([b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nX: y\r\n\r\nno"], 404, b"no"),
        ([CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"], 200, b"hello"),
        ([CHUNKED, b"2\r\nhe\r\n", b"3\r\nllo\r\n", b"0\r\n\r\n"], 200, b"hello"),
        ([bytes([byte]) for byte in CHUNKED + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"], 200, b"hello"),
        ([CHUNKED + b"0\r\n\r\n"], 200, b""),
        ([CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (3 * READ_BYTES, b"x" * 3 * READ_BYTES)], 200, b"x" * 3 * READ_BYTES),
    ],
)  # fmt: skip
@pytest.mark.parametrize("lingers", [False, True])
async def test_a_body_is_whole_however_it_is_framed_and_cut(listening, answer, status, body, lingers):
    async with listening(*answer, lingers=lingers) as peer, exchange(peer.path, "/x") as reply:
        assert (reply.status, await reply.read()) == (status, body)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [b"HTTP/1.1 200"],
        [HEAD],
        [HEAD + b"Content-Length: 5\r\n"],
    ],
)
async def test_a_peer_that_hangs_up_before_the_head_breaks_the_link(listening, answer):
    async with listening(*answer) as peer:
        with pytest.raises(LinkBroken):
            async with exchange(peer.path, "/x"):
                pytest.fail("there is no answer")


@pytest.mark.parametrize(
    ("answer", "before"),
    [
        ([FIVE], b""),
        ([FIVE + b"hell"], b"hell"),
        ([CHUNKED], b""),
        ([CHUNKED + b"5\r\nhel"], b"hel"),
        ([CHUNKED + b"5\r\nhello\r\n"], b"hello"),  # the last chunk is missing
    ],
)
async def test_a_peer_that_hangs_up_in_the_body_breaks_the_link_after_what_there_was(listening, answer, before):
    async with listening(*answer) as peer, exchange(peer.path, "/x") as reply:
        got = b""
        with pytest.raises(LinkBroken, match="the engine hung up"):
            async for chunk in reply.chunks():
                got += chunk
    assert got == before


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01\x02\x03",
        b"hello there\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        HEAD + b"Content-Length: five\r\n\r\nhello",
        HEAD + b"no colon\r\n\r\n",
        CHUNKED + b"zz\r\nhello\r\n",
        CHUNKED + b"2\r\nhello\r\n0\r\n\r\n",
    ],
)
async def test_garbage_breaks_the_link(listening, answer):
    async with listening(answer, lingers=True) as peer:
        with pytest.raises(LinkBroken):
            async with exchange(peer.path, "/x") as reply:
                await reply.read()


async def test_where_nobody_listens_the_link_is_broken(short_tmp):
    (short_tmp / "file").write_bytes(b"")
    for path in ("absent", "file", "folder/absent", "x" * 200):
        with pytest.raises(LinkBroken):
            async with exchange(str(short_tmp / path), "/x"):
                pytest.fail("nobody is there")


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (None, b"GET /x HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"),
        (b"{}", b"POST /x HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
                b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"),
        (b"", b"POST /x HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
              b"Content-Type: application/json\r\nContent-Length: 0\r\n\r\n"),
    ],
)  # fmt: skip
async def test_a_request_is_a_get_or_a_post_of_json(listening, body, request_):
    async with listening(FIVE, b"hello") as peer, exchange(peer.path, "/x", body) as reply:
        await reply.read()
    assert peer.request == request_


async def test_a_body_larger_than_any_buffer_is_sent_whole(listening):
    body = b"x" * (4 << 20)
    async with listening(FIVE, b"hello") as peer, exchange(peer.path, "/x", body) as reply:
        assert await reply.read() == b"hello"
    assert peer.request.endswith(b"\r\n\r\n" + body)


@pytest.mark.parametrize("answer", [CHUNKED, CHUNKED + b"2\r\nhe\r\n"])
async def test_leaving_early_hangs_up(listening, answer):
    async with listening(answer, lingers=True) as peer:
        async with exchange(peer.path, "/x"):
            assert not peer.was_left.is_set()
        with anyio.fail_after(10):
            await peer.was_left.wait()


@pytest.mark.parametrize("answer", [[], [HEAD], [CHUNKED, b"2\r\nhe\r\n"]])
async def test_cancelling_while_the_peer_is_silent_hangs_up(listening, answer):
    async with listening(*answer, lingers=True) as peer:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_when_blocked, scope, peer)
                async with exchange(peer.path, "/x") as reply:
                    await reply.read()
        assert scope.cancelled_caught
        with anyio.fail_after(10):
            await peer.was_left.wait()


async def _cancel_when_blocked(scope, peer):
    while not peer.request:
        await anyio.lowlevel.checkpoint()
    scope.cancel()
