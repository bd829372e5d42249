"""One repository of an OCI-style registry: its manifests and blobs, both ways."""

import re
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx2

from a3s_power.registry.errors import BadReply, RemoteNotFound
from a3s_power.registry.files import content_length
from a3s_power.registry.replies import place
from a3s_power.registry.session import Ask, Session, joined
from a3s_power.units import MIB

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MAX_MANIFEST = 4 * MIB

_COMMIT_S = 300.0  # of silence: a registry may read all of a blob again, or copy it within its storage
_UPLOAD_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})", re.ASCII)


def blob_path(repository: str, digest: str) -> str:
    """Where on its registry a blob is read, as a `RemoteFile`."""
    return f"/v2/{repository}/blobs/{quote(digest, safe=':')}"


class RegistryClient:
    """One pull's or push's view of the repository `library/smollm2`. Every method raises RegistryFailed."""

    def __init__(self, session: Session, repository: str) -> None:
        self.session = session
        self.repository = repository
        self._root = session.base.join(f"/v2/{repository}/")

    # ---- manifests ----

    async def manifest(self, tag: str) -> bytes:
        """A manifest as the registry stores it, at most 4 MiB. Raises RemoteNotFound."""
        ask = Ask("GET", self._manifest_url(tag), {"Accept": MANIFEST_TYPE})
        return (await self.session.call(ask, limit=MAX_MANIFEST)).body

    async def put_manifest(self, tag: str, data: bytes) -> None:
        """Name what has been uploaded."""
        headers = {"Content-Type": MANIFEST_TYPE}
        await self.session.call(Ask("PUT", self._manifest_url(tag), headers, data, silence_s=_COMMIT_S))

    # ---- blobs, out ----

    async def blob_size(self, digest: str) -> int | None:
        """Bytes of a blob; None if the registry has none of that digest."""
        try:
            reply = await self.session.call(Ask("HEAD", self._blob_url(digest), may_leave=True))
        except RemoteNotFound:
            return None
        size = content_length(reply.headers)
        if size is None:
            raise BadReply(f"{place(reply.url)} does not tell the size of {digest}")
        return size

    # ---- blobs, in ----

    async def begin_upload(self, digest: str, mount_from: str | None) -> str | None:
        """The URL to upload to; None if the registry took the blob over from its repository `mount_from`."""
        url = self._root.join("blobs/uploads/")
        if mount_from is not None:
            url = url.copy_merge_params({"mount": digest, "from": mount_from})
        reply = await self.session.call(Ask("POST", url))
        return None if reply.status == 201 else self._next(reply.url, reply.headers)

    async def upload(self, url: str, offset: int, data: AsyncIterator[bytes], length: int) -> str:
        """Append `length` bytes at `offset`; where to go on. A failure leaves `data` spent: ask for the offset."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Content-Range": f"{offset}-{offset + length - 1}",  # the registry's own form, without a unit
        }
        async with self.session.stream(Ask("PATCH", httpx2.URL(url), headers, data)) as response:
            return self._next(response.url, response.headers)

    async def upload_offset(self, url: str) -> int:
        """How many bytes of an upload the registry has.

        Raises RemoteNotFound when it has given the upload up, or when `url` is not the one it told last: the
        distribution project's registry takes up no upload that broke off in the middle of a part.
        """
        reply = await self.session.call(Ask("GET", httpx2.URL(url)))
        last = _UPLOAD_RANGE.fullmatch(reply.headers.get("Range", ""))
        if last is None:
            raise BadReply(f"{place(reply.url)} does not tell how far an upload has come")
        return int(last[1]) + 1 if int(last[1]) else 0  # `0-0` stands for nothing; one byte reads the same

    async def finish_upload(self, url: str, digest: str) -> None:
        """Let the registry check what it has and keep it under its digest."""
        separator = "&" if "?" in url else "?"
        whole = httpx2.URL(f"{url}{separator}digest={quote(digest)}")
        await self.session.call(Ask("PUT", whole, silence_s=_COMMIT_S))

    # ---- URLs ----

    def _manifest_url(self, tag: str) -> httpx2.URL:
        return self._root.join(f"manifests/{quote(tag, safe='')}")

    def _blob_url(self, digest: str) -> httpx2.URL:
        return self.session.base.join(blob_path(self.repository, digest))

    def _next(self, asked: httpx2.URL, headers: httpx2.Headers) -> str:
        """Where an upload goes on, which has to be at the registry itself."""
        location = headers.get("Docker-Upload-Location") or headers.get("Location")
        if not location:
            raise BadReply(f"{place(asked)} does not tell where to upload to")
        url = joined(asked, location)
        if not self.session.is_own(url):
            raise BadReply(f"{place(asked)} wants uploads at another host, {place(url)}, which is not followed")
        return str(url)
