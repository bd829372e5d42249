"""Transfers: one file, either way, past stalls, resets and URLs that expire.

Each can be called again after any failure or cancellation and goes on from what the store, or the registry, has.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Protocol

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from a3s_power.errors import AppError
from a3s_power.registry.client import RegistryClient
from a3s_power.registry.errors import (
    BadReply,
    RegistryFailed,
    RegistryRefused,
    RegistryUnreachable,
    RemoteNotFound,
)
from a3s_power.registry.files import RemoteFile, Source
from a3s_power.registry.patience import PATIENCE, Patience, Retries, Stalled
from a3s_power.registry.pieces import Piece, plan
from a3s_power.units import MIB

UPLOAD_BYTES = 64 * MIB
"""Of one request of an upload: what a reset costs where the registry keeps no halves."""

_FIRST_WORKERS, _MORE_WORKERS, _MAX_WORKERS = 4, 2, 16
_GAIN = 1.1  # more workers come while they bring more than this times the bytes
_MEASURE_S = 2.0
_WRITE_BYTES, _WRITE_S = MIB, 0.1  # bytes wait for the disk until there are so many, or for so long
_HASH_BYTES = 8 * MIB
_THREADS = 4


class Sink(Protocol):
    """A blob on its way in, written in any order; the store's `Assembly` is one. Its calls block."""

    @property
    def size(self) -> int: ...
    @property
    def completed(self) -> int: ...
    def missing(self) -> list[tuple[int, int]]: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def hash_ahead(self) -> None: ...


async def fetch_blob(
    file: RemoteFile,
    sink: Sink,
    on_progress: Callable[[int], None],
    *,
    patience: Patience = PATIENCE,
) -> None:
    """Bring what `sink` lacks, over several connections if the source can send ranges. Does not commit.

    `on_progress` gets the bytes held in all, those of earlier calls included. Raises RegistryFailed when patience
    is at its end, and at once what no retry will mend, such as a blob of another size; StoreFailed.
    """
    on_progress(sink.completed)
    if sink.missing():
        await _Fetch(file, sink, on_progress, patience).run()


async def push_blob(
    client: RegistryClient,
    digest: str,
    size: int,
    read: Callable[[int, int], bytes],
    mount_from: str | None,
    on_progress: Callable[[int], None],
    *,
    patience: Patience = PATIENCE,
) -> None:
    """See that the registry has the blob: had already, mounted from its repository `mount_from`, or sent.

    `read(start, length)` runs in a thread. `on_progress` gets the bytes sent, fewer again when the registry lost
    some. Raises RegistryFailed when patience is at its end, and at once for what will not pass.
    """
    upload = _Upload(client, digest, size, read, mount_from, on_progress)
    retries = Retries(patience)
    while True:
        try:
            return await upload.attempt()
        except RegistryFailed as exc:
            if not upload.may_go_on_after(exc):
                raise
            await retries.pause(exc, upload.sent)


class _Fetch:
    """One call of `fetch_blob`."""

    def __init__(
        self,
        file: RemoteFile,
        sink: Sink,
        on_progress: Callable[[int], None],
        patience: Patience,
    ) -> None:
        self._file, self._sink, self._on_progress, self._patience = file, sink, on_progress, patience
        self._source: Source | None = None
        self._source_lock = anyio.Lock()
        self._pieces: deque[Piece] = deque()
        self._received = 0
        self._hash_at, self._hash_due = _HASH_BYTES, anyio.Event()
        self._threads = anyio.CapacityLimiter(_THREADS)
        self._failure: AppError | None = None

    async def run(self) -> None:
        source = await self._find_source()
        self._pieces.extend(plan(self._sink.missing(), self._sink.size, in_ranges=source.accepts_ranges))
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(self._guarded, helpers, self._hash_ahead)
            async with anyio.create_task_group() as workers:
                for _ in range(_FIRST_WORKERS):
                    workers.start_soon(self._guarded, helpers, self._work)
                helpers.start_soon(self._grow, helpers, workers)
            helpers.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _guarded(self, helpers: TaskGroup, work: Callable[[], Awaitable[None]]) -> None:
        """The first failure ends everything, and is raised where no group wraps it."""
        try:
            await work()
        except AppError as exc:
            self._failure = self._failure or exc
            helpers.cancel_scope.cancel()

    # ---- workers ----

    async def _work(self) -> None:
        while self._pieces:
            await self._fetch(self._pieces.popleft())

    async def _grow(self, helpers: TaskGroup, workers: TaskGroup) -> None:
        """More workers, while they make it faster."""
        count, rate = _FIRST_WORKERS, 0.0
        while count < _MAX_WORKERS:
            began, before, last_rate = anyio.current_time(), self._received, rate
            await self._patience.sleep(_MEASURE_S)
            rate = (self._received - before) / max(anyio.current_time() - began, 1e-6)
            if rate <= last_rate * _GAIN or not self._pieces:
                return
            for _ in range(_MORE_WORKERS):
                workers.start_soon(self._guarded, helpers, self._work)
            count += _MORE_WORKERS

    async def _fetch(self, piece: Piece) -> None:
        retries = Retries(self._patience, piece.position)
        while piece.position < piece.end:
            source = await self._find_source()
            try:
                await self._attempt(piece, source)
            except RegistryFailed as exc:
                if not exc.is_transient:
                    raise
                if self._source is source:
                    self._source = None  # its URL may have expired
                await retries.pause(exc, piece.position)

    async def _attempt(self, piece: Piece, source: Source) -> None:
        """Go on with a piece over one connection. Without ranges, what comes before it is skipped."""
        start, end = (piece.position, piece.end) if source.accepts_ranges else (0, self._sink.size)
        with anyio.CancelScope(deadline=self._next_deadline()) as watch:
            async with self._file.read(source, start, end) as chunks:
                await self._receive(piece, piece.position - start, chunks, watch)
        if watch.cancelled_caught:
            raise Stalled(f"no data for {self._patience.stall_s:g} seconds")
        if piece.position < piece.end:
            raise RegistryUnreachable(f"the transfer broke off, {piece.end - piece.position} bytes are missing")

    async def _receive(
        self, piece: Piece, skip: int, chunks: AsyncIterator[bytes], watch: anyio.CancelScope
    ) -> None:
        write_at = anyio.current_time() + _WRITE_S
        try:
            async for chunk in chunks:
                self._received += len(chunk)
                piece.take(chunk[skip:])
                skip = max(0, skip - len(chunk))
                if piece.pending_bytes >= _WRITE_BYTES or anyio.current_time() >= write_at:
                    watch.deadline = math.inf  # a slow disk is no silent registry
                    await self._write(piece)
                    write_at = anyio.current_time() + _WRITE_S
                watch.deadline = self._next_deadline()
        finally:
            with anyio.CancelScope(shield=True):  # it came: one write, which nothing can interrupt anyway
                await self._write(piece)

    async def _write(self, piece: Piece) -> None:
        if data := b"".join(piece.pending):
            await anyio.to_thread.run_sync(self._sink.write, piece.position, data, limiter=self._threads)
            piece.wrote(len(data))
            self._on_progress(self._sink.completed)
            if self._received >= self._hash_at:
                self._hash_due.set()

    async def _hash_ahead(self) -> None:
        while True:
            await self._hash_due.wait()
            self._hash_at, self._hash_due = self._received + _HASH_BYTES, anyio.Event()
            await anyio.to_thread.run_sync(self._sink.hash_ahead, limiter=self._threads)

    def _next_deadline(self) -> float:
        return anyio.current_time() + self._patience.stall_s

    # ---- sources ----

    async def _find_source(self) -> Source:
        """Where to read now; one worker asks for all. Raises RegistryFailed."""
        async with self._source_lock:
            retries = Retries(self._patience)
            while self._source is None:
                try:
                    self._source = self._checked(await self._file.source())
                except RegistryFailed as exc:
                    if not exc.is_transient:
                        raise
                    await retries.pause(exc, 0)
            return self._source

    def _checked(self, source: Source) -> Source:
        if source.size not in (None, self._sink.size):
            raise BadReply(f"the file has {source.size} bytes there, not the {self._sink.size} announced")
        return source


class _Upload:
    """One blob on its way out, over as many requests and, if the registry gives one up, uploads as it takes."""

    def __init__(
        self,
        client: RegistryClient,
        digest: str,
        size: int,
        read: Callable[[int, int], bytes],
        mount_from: str | None,
        on_progress: Callable[[int], None],
    ) -> None:
        self._client, self._digest, self._size = client, digest, size
        self._read, self._mount_from, self._on_progress = read, mount_from, on_progress
        self._url: str | None = None
        self.sent = 0
        """Bytes that the registry has, as far as we know."""

    async def attempt(self) -> None:
        """Go on from where the registry is, until it has the blob."""
        if self._url is not None:
            await self._resume(self._url)
        if self._url is None:
            self.sent = 0
            if await self._client.blob_size(self._digest) is None:
                self._url = await self._client.begin_upload(self._digest, self._mount_from)
        if self._url is not None:
            await self._send(self._url)
        self._on_progress(self._size)

    def may_go_on_after(self, exc: RegistryFailed) -> bool:
        """Whether another attempt may do better: later, from another offset, or by another upload."""
        match exc:
            case RemoteNotFound() | RegistryRefused(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
                return self._url is not None
            case _:
                return exc.is_transient

    async def _resume(self, url: str) -> None:
        try:
            self.sent = await self._client.upload_offset(url)
        except RegistryFailed as exc:
            if exc.is_transient:
                raise
            self._url = None  # it was given up, or it was finished and only the answer got lost

    async def _send(self, url: str) -> None:
        while self.sent < self._size:
            length = min(UPLOAD_BYTES, self._size - self.sent)
            self._url = url = await self._client.upload(url, self.sent, self._chunks(self.sent, length), length)
            self.sent += length
        await self._client.finish_upload(url, self._digest)

    async def _chunks(self, start: int, length: int) -> AsyncIterator[bytes]:
        for at in range(start, start + length, MIB):
            self._on_progress(at)
            yield await anyio.to_thread.run_sync(self._read, at, min(MIB, start + length - at))
