"""Answers, read within bounds; failures of httpx2 made ours."""

from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import anyio
import httpx2

from a3s_power.registry.errors import (
    BadReply,
    RegistryFailed,
    RegistryRefused,
    RegistryUnreachable,
    RemoteNotFound,
)

MAX_TEXT = 64 * 1024  # bytes of an answer that is only a word or two
_MAX_MESSAGE = 1000  # characters of it that go into an error
_CLOSING_S = 2.0
_MAX_PORT = 65535
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


@contextmanager
def our_errors(url: httpx2.URL) -> Iterator[None]:
    """What fails on the way to `url` is RegistryUnreachable."""
    if (url.port or 0) > _MAX_PORT:  # which httpx2 finds out in a task group of its own
        raise RegistryFailed(f"{place(url)}: there is no such port")
    try:
        yield
    except (httpx2.TimeoutException, TimeoutError) as exc:
        raise RegistryUnreachable(f"{place(url)}: no answer in time") from exc
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        raise RegistryUnreachable(f"{place(url)}: {str(exc) or type(exc).__name__}") from exc


def place(url: httpx2.URL) -> str:
    """Host and port, for people."""
    return url.netloc.decode()


async def read_whole(response: httpx2.Response, limit: int) -> bytes:
    """A body of at most `limit` bytes, as it was sent. Raises BadReply."""
    check_plain(response)
    body = bytearray()
    with our_errors(response.url):
        async with aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    raise BadReply(f"{place(response.url)} sent an answer of more than {limit} bytes")
    return bytes(body)


def check_plain(response: httpx2.Response) -> None:
    """Raises BadReply for a compressed body: we ask for none, and one may grow without bounds."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise BadReply(f"{place(response.url)} sent {encoding[:20]!r} data, which nobody asked for")


async def check(response: httpx2.Response, *, is_own: bool) -> None:
    """Raises RemoteNotFound or RegistryRefused unless the status says that it went well.

    A storage that the registry has sent us to refuses a URL that has grown old: a fresh one may do.
    """
    if response.status_code == 404 and is_own:
        raise RemoteNotFound
    if not response.is_success:
        is_transient = response.status_code in _PASSING or not is_own
        raise RegistryRefused(response.status_code, await message(response), is_transient=is_transient)


async def message(response: httpx2.Response) -> str:
    """What an error's body says, on one line and without characters that a terminal would obey."""
    try:
        body = await read_whole(response, MAX_TEXT)
    except BadReply:
        return ""
    text = " ".join(body.decode(errors="replace").split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_MAX_MESSAGE])


async def close(response: httpx2.Response) -> None:
    """Give the connection back, or hang up; cancelled or not."""
    with anyio.move_on_after(_CLOSING_S, shield=True):
        await response.aclose()
