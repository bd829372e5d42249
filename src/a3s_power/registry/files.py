"""One file at a URL, read in ranges: a blob of a registry, or a GGUF on any site."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import httpx2

from a3s_power.registry.errors import BadReply, RegistryUnreachable
from a3s_power.registry.replies import check_plain, our_errors, place
from a3s_power.registry.session import Ask, Session

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_SIZE = re.compile(r"\d{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file's bytes come from: the site itself, or a storage it redirects to, whose URL may expire."""

    url: str
    size: int | None
    accepts_ranges: bool
    version: str = ""
    """A strong ETag, if there is one: another means other bytes."""


class RemoteFile:
    """One file; its methods raise RegistryFailed.

    `has_digest`: the bytes will be checked against one. Where nothing else tells that a file was replaced after it
    was first asked about, its ETag has to.
    """

    def __init__(self, session: Session, url: httpx2.URL, *, has_digest: bool) -> None:
        self._session = session
        self._url = url
        self._has_digest = has_digest
        self._version: str | None = None

    async def source(self) -> Source:
        """Find out where to read, by reading one byte. Raises RemoteNotFound, and BadReply if it was replaced.

        A HEAD would not do: a URL that a registry signs for reading is good for a GET only.
        """
        ask = Ask("GET", self._url, {"Range": "bytes=0-0"}, may_leave=True)
        async with self._session.stream(ask) as response:
            url, version = str(response.url), self._checked_version(response)
            if response.status_code == 206:
                return Source(url, _content_range(response)[2], accepts_ranges=True, version=version)
            return Source(url, content_length(response.headers), accepts_ranges=False, version=version)

    @asynccontextmanager
    async def read(self, source: Source, start: int, end: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes from `start` up to, not including, `end`, in pieces of any size.

        Raises BadReply, at once or in the middle, if other bytes come than were asked for, and RegistryUnreachable
        if fewer do.
        """
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if source.version and not self._has_digest:
            headers["If-Range"] = source.version
        async with self._session.stream(Ask("GET", httpx2.URL(source.url), headers, may_leave=True)) as response:
            self._checked_version(response)
            _check_range(response, start, end, source.size)
            async with aclosing(_counted(response, end - start)) as chunks:
                yield chunks

    def _checked_version(self, response: httpx2.Response) -> str:
        """A strong ETag, if there is one. Raises BadReply for another than before, if nobody else would notice."""
        tag: str = response.headers.get("ETag", "")
        version = "" if tag.startswith("W/") else tag
        if self._version not in {None, version} and not self._has_digest:
            raise BadReply(f"{place(self._url)} has changed the file while it was read")
        self._version = version
        return version


def content_length(headers: httpx2.Headers) -> int | None:
    """What `Content-Length` says, if it says anything."""
    text = headers.get("Content-Length", "")
    return int(text) if _SIZE.fullmatch(text) else None


def _content_range(response: httpx2.Response) -> tuple[int, int, int | None]:
    """First byte, last byte, size of the whole. Raises BadReply."""
    text = response.headers.get("Content-Range", "")
    parts = _CONTENT_RANGE.fullmatch(text)
    if parts is None:
        raise BadReply(f"{place(response.url)} sent a part of a blob as range {text[:100]!r}")
    first, last, whole = parts.groups()
    return int(first), int(last), None if whole == "*" else int(whole)


def _check_range(response: httpx2.Response, start: int, end: int, size: int | None) -> None:
    """Raises BadReply unless the answer is these very bytes. A 200 is all of a blob, good if all was asked for."""
    check_plain(response)
    if response.status_code == 206:
        first, last, whole = _content_range(response)
    else:
        whole = content_length(response.headers)
        first, last = 0, (end if whole is None else whole) - 1
    if (first, last) != (start, end - 1) or (size is not None and whole not in {None, size}):
        asked, sent = f"bytes {start}-{end - 1} of {size or '?'}", f"bytes {first}-{last} of {whole or '?'}"
        raise BadReply(f"{place(response.url)} was asked for {asked} and sent {sent}")


async def _counted(response: httpx2.Response, length: int) -> AsyncGenerator[bytes]:
    """A body that has to have `length` bytes."""
    missing = length
    with our_errors(response.url):
        async with aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                missing -= len(chunk)
                if missing < 0:
                    raise BadReply(f"{place(response.url)} sent more than the {length} bytes asked for")
                yield chunk
    if missing:
        raise RegistryUnreachable(f"{place(response.url)} broke off, {missing} of {length} bytes are missing")
