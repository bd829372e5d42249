"""Files on their way into the store, each fetched once for everybody who wants it."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from a3s_power.errors import AppError, DigestMismatch, InvalidRequest
from a3s_power.progress import Progress, Tell
from a3s_power.registry.errors import BadReply, RegistryFailed
from a3s_power.registry.files import RemoteFile, Source
from a3s_power.registry.session import Site
from a3s_power.registry.transfer import fetch_blob
from a3s_power.service.remotes import PROGRESS_S, Remotes
from a3s_power.store.assembly import Assembly
from a3s_power.store.blobs import BlobStore

log = logging.getLogger(__name__)

_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file, and where it is read: `path` at `site`, with its query. Without a digest it has to be a GGUF."""

    site: Site
    path: str
    digest: str = ""
    size: int = 0

    @property
    def key(self) -> str:
        """The same for all who want the same bytes; without a digest, those who trust a site less are others."""
        return self.digest or f"{'insecure ' if self.site.insecure else ''}{self.site}{self.path}"

    @property
    def step(self) -> str:
        """As Ollama words it: `pulling 74701a8c35f6`."""
        return f"pulling {self.digest.removeprefix('sha256:')[:12] if self.digest else self.file_name}"

    @property
    def file_name(self) -> str:
        path = unquote(self.path.partition("?")[0])
        return PurePosixPath(path.replace("\\", "/")).name


@dataclass(eq=False)
class _Download:
    """One file on its way in."""

    wanted: Wanted
    size: int
    completed: int = 0
    was_resumed: bool = False
    digest: str = ""
    waiters: int = 0
    error: AppError | None = field(default_factory=lambda: RegistryFailed("the download was given up"))
    """None once the blob is here."""
    has_begun: anyio.Event = field(default_factory=anyio.Event)
    """Set when `size` is known, and `completed` counts what an earlier download has left."""
    is_done: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def progress(self) -> Progress:
        return Progress(self.wanted.step, self.wanted.digest, self.size, self.completed)


class Downloads:
    """Use `async with downloads.running()` once, and `fetch` inside it."""

    def __init__(self, blobs: BlobStore, remotes: Remotes) -> None:
        self._blobs = blobs
        self._remotes = remotes
        self._downloads: dict[str, _Download] = {}
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own all downloads; none goes on when the block is left. What came of them stays, to be resumed."""
        async with anyio.create_task_group() as self._tasks:
            try:
                yield
            finally:
                self._tasks.cancel_scope.cancel()

    async def fetch(self, wanted: Wanted, tell: Tell) -> str:
        """Have a file here, together with all others who want it, wherever they read it; its digest.

        Raises RegistryFailed, StoreFailed, and InvalidRequest for a file without a digest that is no GGUF.
        """
        while not await anyio.to_thread.run_sync(self._has, wanted):
            download = await self._join(wanted)
            try:
                await download.has_begun.wait()
                while not download.is_done.is_set():
                    tell(download.progress)
                    with anyio.move_on_after(PROGRESS_S):
                        await download.is_done.wait()
            finally:
                download.waiters -= 1
                if not download.waiters:
                    download.scope.cancel()  # nobody waits for it any more
            if download.error is None and not wanted.digest:
                tell(download.progress)
                return download.digest
            if download.error is not None and download.wanted == wanted:
                raise download.error  # somebody else's source may fail where ours does not
        tell(Progress(wanted.step, wanted.digest, wanted.size, wanted.size))
        return wanted.digest

    def _has(self, wanted: Wanted) -> bool:
        blobs, digest = self._blobs, wanted.digest
        return bool(digest) and blobs.has(digest) and blobs.size(digest) == wanted.size

    async def _join(self, wanted: Wanted) -> _Download:
        while (download := self._downloads.get(wanted.key)) and not download.waiters:
            await download.is_done.wait()  # it is being given up
        if download is None:
            download = self._downloads[wanted.key] = _Download(wanted, wanted.size)
            assert self._tasks, "downloads are running"
            self._tasks.start_soon(self._live, download)
        download.waiters += 1
        return download

    async def _live(self, download: _Download) -> None:
        """A download's whole life."""
        try:
            with download.scope:
                await self._download(download)
                download.error = None
        except DigestMismatch as exc:
            words = "digest mismatch, file must be downloaded again: want {}, got {}"
            download.error = RegistryFailed(words.format(exc.expected, exc.actual))
        except AppError as exc:
            download.error = exc
        except Exception as exc:  # a download is supervised: what goes wrong in one must not end the others
            log.error("download failed", extra={"file": download.wanted.key}, exc_info=exc)
            download.error = RegistryFailed("the download failed: internal error")
        finally:
            del self._downloads[download.wanted.key]
            download.has_begun.set()
            download.is_done.set()

    async def _download(self, download: _Download) -> None:
        wanted = download.wanted
        if await anyio.to_thread.run_sync(self._has, wanted):
            return None  # it came while nobody looked
        async with self._opened(wanted) as file:
            if not wanted.digest:
                return await self._assemble(download, file, await self._unknown(download, file))
            try:
                await self._assemble(download, file, self._blobs.assemble(wanted.digest, wanted.size))
            except DigestMismatch:
                if not download.was_resumed:
                    raise
                log.warning("what an earlier download left is of no use", extra={"digest": wanted.digest})
                await self._assemble(download, file, self._blobs.assemble(wanted.digest, wanted.size))

    async def _unknown(self, download: _Download, file: RemoteFile) -> AbstractContextManager[Assembly]:
        """Learn from the site what a file without a digest is."""
        wanted = download.wanted
        source = await file.source()
        if source.size is None:
            raise BadReply(f"{wanted.site.host} does not tell how long {wanted.file_name} is")
        if source.size < len(_MAGIC) or await _beginning(file, source) != _MAGIC:
            raise InvalidRequest(f"{wanted.file_name} at {wanted.site.host} is no GGUF file")
        download.size = source.size
        same_bytes = f"{wanted.key} {source.version} {source.size}" if source.version else None
        return self._blobs.assemble_unknown(same_bytes, source.size)

    async def _assemble(
        self, download: _Download, file: RemoteFile, opening: AbstractContextManager[Assembly]
    ) -> None:
        def on_progress(completed: int) -> None:
            download.completed = completed

        assembly = await anyio.to_thread.run_sync(opening.__enter__)
        try:
            download.was_resumed = assembly.completed > 0
            download.completed = assembly.completed
            download.has_begun.set()
            await fetch_blob(file, assembly, on_progress)
            download.digest = await anyio.to_thread.run_sync(assembly.commit)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(opening.__exit__, None, None, None)

    @asynccontextmanager
    async def _opened(self, wanted: Wanted) -> AsyncIterator[RemoteFile]:
        async with self._remotes.session(wanted.site) as session:
            yield RemoteFile(session, session.url(wanted.path), has_digest=bool(wanted.digest))


async def _beginning(file: RemoteFile, source: Source) -> bytes:
    """As many bytes as the magic has, of a longer file."""
    end = len(_MAGIC) if source.accepts_ranges else source.size
    beginning = b""
    async with file.read(source, 0, end or 0) as chunks:
        async for chunk in chunks:
            beginning += chunk
            if len(beginning) >= len(_MAGIC):
                break
    return beginning[: len(_MAGIC)]
