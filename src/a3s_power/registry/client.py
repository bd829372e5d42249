"""One repository of an OCI-style registry: its manifests and blobs, both ways."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

import anyio
import httpx2

from a3s_power.hosts import is_loopback
from a3s_power.registry.auth import Keychain
from a3s_power.registry.errors import BadReply, RegistryFailed, RegistryUnreachable, RemoteNotFound
from a3s_power.registry.replies import check_plain, our_errors, place
from a3s_power.registry.session import CONNECT_S, SILENCE_S, Ask, Session, joined
from a3s_power.units import MIB

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MAX_MANIFEST = 4 * MIB

_COMMIT_S = 300.0  # of silence: a registry may read all of a blob again, or copy it within its storage
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_UPLOAD_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})", re.ASCII)
_SIZE = re.compile(r"\d{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Repository:
    """Where a model lives remotely: `localhost:5000` and `library/smollm2`."""

    host: str
    path: str


@dataclass(frozen=True, slots=True)
class BlobSource:
    """Where a blob's bytes come from: the registry, or a storage it redirects to, whose URL may expire."""

    url: str
    size: int | None
    accepts_ranges: bool


class RegistryClient:
    """One pull's or push's view of a repository; made by `open_registry`. Every method raises RegistryFailed."""

    def __init__(self, session: Session, repository: Repository) -> None:
        self._session = session
        self._root = session.base.join(f"/v2/{repository.path}/")

    # ---- manifests ----

    async def manifest(self, tag: str) -> bytes:
        """A manifest as the registry stores it, at most 4 MiB. Raises RemoteNotFound."""
        ask = Ask("GET", self._manifest_url(tag), {"Accept": MANIFEST_TYPE})
        return (await self._session.call(ask, limit=MAX_MANIFEST)).body

    async def put_manifest(self, tag: str, data: bytes) -> None:
        """Name what has been uploaded."""
        headers = {"Content-Type": MANIFEST_TYPE}
        await self._session.call(Ask("PUT", self._manifest_url(tag), headers, data, silence_s=_COMMIT_S))

    # ---- blobs, out ----

    async def blob_size(self, digest: str) -> int | None:
        """Bytes of a blob; None if the registry has none of that digest."""
        try:
            reply = await self._session.call(Ask("HEAD", self._blob_url(digest), may_leave=True))
        except RemoteNotFound:
            return None
        size = _content_length(reply.headers)
        if size is None:
            raise BadReply(f"{place(reply.url)} does not tell the size of {digest}")
        return size

    async def source(self, digest: str) -> BlobSource:
        """Find out where to read a blob, by reading one byte of it. Raises RemoteNotFound.

        A HEAD would not do: a URL that a registry signs for reading is good for a GET only.
        """
        ask = Ask("GET", self._blob_url(digest), {"Range": "bytes=0-0"}, may_leave=True)
        async with self._session.stream(ask) as response:
            url = str(response.url)
            if response.status_code == 206:
                return BlobSource(url, _content_range(response)[2], accepts_ranges=True)
            return BlobSource(url, _content_length(response.headers), accepts_ranges=False)

    @asynccontextmanager
    async def read(self, source: BlobSource, start: int, end: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes from `start` up to, not including, `end`, in pieces of any size.

        Raises BadReply, at once or in the middle, if other bytes come than were asked for, and RegistryUnreachable
        if fewer do.
        """
        ask = Ask("GET", httpx2.URL(source.url), {"Range": f"bytes={start}-{end - 1}"}, may_leave=True)
        async with self._session.stream(ask) as response:
            _check_range(response, start, end, source.size)
            async with aclosing(_counted(response, end - start)) as chunks:
                yield chunks

    # ---- blobs, in ----

    async def begin_upload(self, digest: str, mount_from: str | None) -> str | None:
        """The URL to upload to; None if the registry took the blob over from its repository `mount_from`."""
        url = self._root.join("blobs/uploads/")
        if mount_from is not None:
            url = url.copy_merge_params({"mount": digest, "from": mount_from})
        reply = await self._session.call(Ask("POST", url))
        return None if reply.status == 201 else self._next(reply.url, reply.headers)

    async def upload(self, url: str, offset: int, data: AsyncIterator[bytes], length: int) -> str:
        """Append `length` bytes at `offset`; where to go on. A failure leaves `data` spent: ask for the offset."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Content-Range": f"{offset}-{offset + length - 1}",  # the registry's own form, without a unit
        }
        async with self._session.stream(Ask("PATCH", httpx2.URL(url), headers, data)) as response:
            return self._next(response.url, response.headers)

    async def upload_offset(self, url: str) -> int:
        """How many bytes of an upload the registry has.

        Raises RemoteNotFound when it has given the upload up, or when `url` is not the one it told last: the
        distribution project's registry takes up no upload that broke off in the middle of a part.
        """
        reply = await self._session.call(Ask("GET", httpx2.URL(url)))
        last = _UPLOAD_RANGE.fullmatch(reply.headers.get("Range", ""))
        if last is None:
            raise BadReply(f"{place(reply.url)} does not tell how far an upload has come")
        return int(last[1]) + 1 if int(last[1]) else 0  # `0-0` stands for nothing; one byte reads the same

    async def finish_upload(self, url: str, digest: str) -> None:
        """Let the registry check what it has and keep it under its digest."""
        separator = "&" if "?" in url else "?"
        whole = httpx2.URL(f"{url}{separator}digest={quote(digest)}")
        await self._session.call(Ask("PUT", whole, silence_s=_COMMIT_S))

    # ---- URLs ----

    def _manifest_url(self, tag: str) -> httpx2.URL:
        return self._root.join(f"manifests/{quote(tag, safe='')}")

    def _blob_url(self, digest: str) -> httpx2.URL:
        return self._root.join(f"blobs/{quote(digest, safe=':')}")

    def _next(self, asked: httpx2.URL, headers: httpx2.Headers) -> str:
        """Where an upload goes on, which has to be at the registry itself."""
        location = headers.get("Docker-Upload-Location") or headers.get("Location")
        if not location:
            raise BadReply(f"{place(asked)} does not tell where to upload to")
        url = joined(asked, location)
        if not self._session.is_own(url):
            raise BadReply(f"{place(asked)} wants uploads at another host, {place(url)}, which is not followed")
        return str(url)


# ---- opening ----


@asynccontextmanager
async def open_registry(
    repository: Repository,
    *,
    keychain: Keychain,
    insecure: bool,
    user_agent: str,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AsyncIterator[RegistryClient]:
    """A client for one repository.

    Speaks https and trusts what the machine trusts (`SSL_CERT_FILE`), through the proxies of the environment.
    `insecure`: trusts any certificate, and speaks plain http where there is no https at all.
    """
    base = _base(repository.host)
    headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}  # digests are of the bytes as stored
    try:
        client = httpx2.AsyncClient(
            headers=headers, verify=not insecure, transport=transport, mounts=_no_proxy(base)
        )
    except (OSError, ValueError, ImportError) as exc:  # a proxy or certificates of the environment that are none
        raise RegistryFailed(f"cannot speak to {repository.host} with this environment: {exc}") from exc
    async with client as http:
        if insecure and not await _speaks_tls(http, base):
            base = base.copy_with(scheme="http")
        yield RegistryClient(Session(http, base, keychain, insecure=insecure), repository)


def _base(host: str) -> httpx2.URL:
    try:
        return httpx2.URL(f"https://{host}")
    except httpx2.InvalidURL as exc:
        raise RegistryFailed(f"{host}: no registry's address: {exc}") from exc


def _no_proxy(base: httpx2.URL) -> dict[str, None]:
    """HTTPS_PROXY does not lead back to this machine; Go makes the same exception."""
    return {f"all://{base.host}": None} if is_loopback(base.host) else {}


async def _speaks_tls(http: httpx2.AsyncClient, base: httpx2.URL) -> bool:
    timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
    try:
        with our_errors(base), anyio.fail_after(2 * SILENCE_S):
            async with http.stream("GET", base.join("/v2/"), timeout=timeout):
                return True
    except RegistryUnreachable as exc:
        if isinstance(exc.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
            return False
        raise


# ---- what headers say ----


def _content_length(headers: httpx2.Headers) -> int | None:
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
        whole = _content_length(response.headers)
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
