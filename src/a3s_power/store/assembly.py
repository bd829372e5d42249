"""Assembly: a blob of known size whose pieces come in any order, from many connections at once.

The part file has its full length from the start, with holes. A map beside it says which of its blocks are held,
so that the next assembly goes on from there, also after a SIGKILL: what was written is in the page cache. After a
power cut the map may promise more than the disk kept; then the digest is wrong, and the next assembly begins anew.
"""

import hashlib
import os
import struct
import sys
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Self

from a3s_power.errors import DigestMismatch, InvalidRequest, StoreFailed
from a3s_power.store.parts import Part, disk_errors, fsync_dir, map_path
from a3s_power.units import MIB, human_bytes

BLOCK_BYTES = 256 * 1024
"""What a killed process loses of each piece it was writing, at most."""
KEPT_FREE_BYTES = 64 * MIB
"""A disk is never filled to the brim: the database and the logs need room too."""

_HASH_BYTES = 64 * MIB  # of one `hash_ahead`, so that nobody waits long for it: it may begin with 40 GB resumed


def check_room(folder: Path, needed: int) -> None:
    """Raise StoreFailed unless `needed` more bytes fit on the disk of `folder`."""
    with disk_errors(f"look at {folder}"):
        disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if needed > 0 and needed + KEPT_FREE_BYTES > free:
        raise StoreFailed(
            f"not enough disk space in {folder}: {human_bytes(needed)} needed, {human_bytes(free)} free; "
            "free some space, or keep models elsewhere with OLLAMA_MODELS"
        )


class Assembly:
    """One blob on its way in, made by `BlobStore.assemble`; threads may write to different ranges at once.

    `blob_path` tells where a digest's blob lies; `digest` is None if it will only be known in the end.
    """

    def __init__(self, part: Part, blob_path: Callable[[str], Path], digest: str | None, size: int) -> None:
        self.size = size
        """Bytes announced."""
        self._part, self._blob_path, self._digest = part, blob_path, digest
        self._map: _BlockMap | None = None
        self._spans: dict[int, list[tuple[int, int]]] = {}  # block begun → what of it is written
        self._lock = threading.Lock()  # of the two above
        self._hash, self._hashed = hashlib.sha256(), 0
        self._hash_lock = threading.Lock()

    def resume(self) -> None:
        """Find out what an earlier assembly, or an ingest, left. Raises StoreFailed if the rest has no room."""
        with disk_errors(f"write blob to {self._part.path}"):
            status = os.fstat(self._fd)
            check_room(self._part.path.parent, self.size - status.st_blocks * 512)
            self._map = _BlockMap.open(map_path(self._part.path), self.size, status.st_size)
            if not self._map.completed:
                os.ftruncate(self._fd, 0)
            fsync_dir(self._part.path.parent)  # a part of full length without its map would pass for a whole one
            os.ftruncate(self._fd, self.size)

    @property
    def completed(self) -> int:
        """Bytes held, in whole blocks."""
        return self._blocks.completed

    def missing(self) -> list[tuple[int, int]]:
        """The gaps `[start, end)`, in order; they begin and end with blocks."""
        with self._lock:
            return self._blocks.gaps()

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes where they belong; those of blocks that are held already are skipped.

        A block is held once all of it was written, in as many pieces as it takes. InvalidRequest outside the blob.
        """
        end = offset + len(data)
        if offset < 0 or end > self.size:
            raise InvalidRequest(f"bytes {offset}-{end} are outside the {self.size} bytes announced")
        view = memoryview(data)
        with disk_errors(f"write blob to {self._part.path}"):
            for block in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
                if not self._blocks.holds(block):  # what is held may be hashed: it must not change any more
                    start = max(offset, block * BLOCK_BYTES)
                    stop = min(end, (block + 1) * BLOCK_BYTES)
                    _write_at(self._fd, start, view[start - offset : stop - offset])
                    self._count(block, start, stop)

    def hash_ahead(self) -> None:
        """Hash some of what is contiguous by now, so that little is left to do at the end.

        Called from time to time by any thread; returns at once while another is at it.
        """
        if self._hash_lock.acquire(blocking=False):
            try:
                self._hash_to(min(self._blocks.contiguous(self._hashed), self._hashed + _HASH_BYTES))
            finally:
                self._hash_lock.release()

    def commit(self) -> str:
        """Check the bytes, make them a blob that survives a power cut, and return their digest.

        Raises DigestMismatch and drops the bytes if they are not the ones announced; InvalidRequest, and keeps
        them, if there are fewer.
        """
        if self.completed != self.size:
            raise InvalidRequest(f"blob has {self.completed} of the {self.size} bytes announced")
        with self._hash_lock:
            self._hash_to(sys.maxsize)  # to the end of the file: one of another size has another digest
            digest = f"sha256:{self._hash.hexdigest()}"
        if self._digest not in {None, digest}:
            self.abort()
            raise DigestMismatch(self._digest or "", digest)
        self._part.become(self._blob_path(digest), self.size)
        self._drop_map()
        return digest

    def abort(self) -> None:
        """Drop the bytes for good. Does nothing after a commit."""
        if self._part.is_here:
            self._part.drop()  # the part first: without its map it would pass for a sequential beginning
            self._drop_map()

    def close(self) -> None:
        """Let go; `BlobStore.assemble` calls it. A part that nobody can resume goes."""
        try:
            if self._is_empty() or not self._part.can_be_resumed:
                self.abort()
        finally:
            if self._map is not None:
                self._map.close()
            self._part.close()

    @property
    def _fd(self) -> int:
        return self._part.file.fileno()

    @property
    def _blocks(self) -> "_BlockMap":
        assert self._map is not None, "resume() comes first"
        return self._map

    def _is_empty(self) -> bool:
        """Nothing worth keeping; a part that could not be looked at is."""
        return os.fstat(self._fd).st_size == 0 if self._map is None else self.completed == 0

    def _count(self, block: int, start: int, stop: int) -> None:
        """Take note of what was written, and mark the block if that was the last of it."""
        whole = (block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, self.size))
        with self._lock:
            spans = _with_span(self._spans.pop(block, []), start, stop)
            if spans == [whole]:
                self._blocks.mark(block)
            else:
                self._spans[block] = spans

    def _hash_to(self, end: int) -> None:
        with disk_errors(f"read {self._part.path}"):
            while chunk := os.pread(self._fd, max(0, min(MIB, end - self._hashed)), self._hashed):
                self._hash.update(chunk)
                self._hashed += len(chunk)

    def _drop_map(self) -> None:
        path = map_path(self._part.path)
        with disk_errors(f"delete {path}"):
            path.unlink(missing_ok=True)


class _BlockMap:
    """One byte per block, 1 if it is held, in memory and on disk.

    Written by `pwrite` and not through a memory map: a disk that fails there is an error and no SIGBUS.
    """

    _HEADER = struct.Struct("<8sIIQ")  # magic, version, block size, size of the blob
    _MAGIC, _VERSION = b"a3s map\n", 1

    def __init__(self, file: FileIO, size: int, held: bytearray) -> None:
        self._file, self._size, self._held = file, size, held
        self.completed = sum(self._length(block) for block in range(len(held)) if held[block])
        """Bytes of the blocks held."""

    @classmethod
    def open(cls, path: Path, size: int, length: int) -> Self:
        """The map at `path` of a part that has `length` bytes by now; made, or made anew, if it is of no use.

        A part without a map is the beginning that an ingest left, unless it is too long.
        """
        header = cls._HEADER.pack(cls._MAGIC, cls._VERSION, BLOCK_BYTES, size)
        count = -(-size // BLOCK_BYTES)
        found = path.read_bytes() if path.exists() else header + b"\1" * count
        marks = found.removeprefix(header)
        is_usable = len(marks) == count == len(found) - len(header) and set(marks) <= {0, 1} and length <= size
        whole = count if length == size else length // BLOCK_BYTES  # blocks that the part has room for
        held = bytearray(marks[:whole] if is_usable else b"").ljust(count, b"\0")
        temp = path.with_suffix(".map.tmp")
        temp.write_bytes(header + held)  # in full, so that no mark needs room on the disk later
        temp.replace(path)
        return cls(path.open("r+b", buffering=0), size, held)

    def holds(self, block: int) -> bool:
        return self._held[block] == 1

    def mark(self, block: int) -> None:
        """All of a block was written."""
        if not self.holds(block):
            os.pwrite(self._file.fileno(), b"\1", self._HEADER.size + block)
            self._held[block] = 1
            self.completed += self._length(block)

    def gaps(self) -> list[tuple[int, int]]:
        """What is not held, as bytes `[start, end)`."""
        gaps, end = [], 0
        while (start := self._held.find(0, end)) >= 0:
            end = self._end(start)
            gaps.append((start * BLOCK_BYTES, min(end * BLOCK_BYTES, self._size)))
        return gaps

    def contiguous(self, start: int) -> int:
        """How far the blob is held from byte `start` on, where a block begins."""
        block = self._held.find(0, start // BLOCK_BYTES)
        return self._size if block < 0 else block * BLOCK_BYTES

    def close(self) -> None:
        self._file.close()

    def _end(self, start: int) -> int:
        end = self._held.find(1, start)
        return len(self._held) if end < 0 else end

    def _length(self, block: int) -> int:
        return min(BLOCK_BYTES, self._size - block * BLOCK_BYTES)


def _with_span(spans: list[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """`spans` and one more `[start, stop)`, those that touch it merged into it."""
    touching = [span for span in spans if span[0] <= stop and start <= span[1]]
    apart = [span for span in spans if span not in touching]
    return [*apart, (min([start, *(a for a, _ in touching)]), max([stop, *(b for _, b in touching)]))]


def _write_at(fd: int, offset: int, data: memoryview) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
