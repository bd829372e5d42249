"""Blobs: files kept under the sha256 of their bytes, `<data_dir>/blobs/sha256-<hex>`.

A blob is there whole or not at all: its bytes gather in a part file elsewhere on the same file system, and
fsync and rename make it a blob once its digest has been checked. Part files never lie among the blobs, where
Ollama's start-up prune deletes what it does not know.
"""

import hashlib
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from a3s_power.errors import BlobNotFound, DigestMismatch, InvalidDigest, InvalidRequest
from a3s_power.store.assembly import Assembly, check_room
from a3s_power.store.parts import Part, disk_errors, make_workspace, map_path, open_part, open_temp
from a3s_power.units import MIB

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})", re.ASCII)


def check_digest(text: str) -> str:
    """`sha256:<hex>` of `sha256:<64 hex>` or `sha256-<64 hex>`, its case kept. Raises InvalidDigest."""
    if match := _DIGEST.fullmatch(text):
        return f"sha256:{match[1]}"
    raise InvalidDigest(text)


class BlobStore:
    """All blobs of a store. Nothing is made on disk before the first of them comes in."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "blobs"
        self._pins: Counter[str] = Counter()
        self._pins_lock = threading.Lock()

    def path(self, digest: str) -> Path:
        """The one place where a digest becomes a path. Raises InvalidDigest."""
        return self.root / check_digest(digest).replace(":", "-")

    def has(self, digest: str) -> bool:
        return self._size(self.path(digest)) is not None

    def size(self, digest: str) -> int:
        """Bytes. Raises BlobNotFound."""
        if (size := self._size(self.path(digest))) is None:
            raise BlobNotFound(digest)
        return size

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading. Raises BlobNotFound."""
        path = self.path(digest)
        with disk_errors(f"read blob {path}"):
            try:
                return path.open("rb")
            except FileNotFoundError as exc:
                raise BlobNotFound(digest) from exc

    def touch(self, digest: str) -> None:
        """Say that the blob is in use: no prune, ours or Ollama's, takes it within the hour."""
        path = self.path(digest)
        with disk_errors(f"touch blob {path}"):
            try:
                os.utime(path)
            except FileNotFoundError as exc:
                raise BlobNotFound(digest) from exc

    def digests(self) -> list[str]:
        """Every blob here. Files under other names, such as Ollama's partial downloads, are not blobs."""
        names: list[str] = []
        with disk_errors(f"list {self.root}"), suppress(FileNotFoundError), os.scandir(self.root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
        return [check_digest(name) for name in names if _is_blob_name(name)]

    def delete(self, digest: str) -> bool:
        """Remove a blob and say whether it went: one that is pinned stays, one that is absent is fine."""
        path = self.path(digest)
        with self._pins_lock, disk_errors(f"delete blob {path}"), suppress(FileNotFoundError):
            if check_digest(digest) not in self._pins:
                path.unlink()
                return True
        return False

    @contextmanager
    def pin(self, digests: Iterable[str]) -> Iterator[None]:
        """Within this, nothing in this process deletes these blobs. Pin first, then ask whether they are here."""
        pinned = [check_digest(digest) for digest in digests]
        with self._pins_lock:
            self._pins.update(pinned)
        try:
            yield
        finally:
            with self._pins_lock:
                self._pins.subtract(pinned)
                self._pins = +self._pins

    def is_pinned(self, digest: str) -> bool:
        with self._pins_lock:
            return check_digest(digest) in self._pins

    @contextmanager
    def ingest(self, digest: str | None = None, size: int | None = None) -> "Iterator[Ingest]":
        """Take in a blob of `size` bytes, announced as `digest`; either may be unknown.

        Left without a commit, the bytes of an announced blob stay, and the next ingest of it goes on from
        there, after reading them again for the hash. If another ingest of it is under way, here or in another
        process, this one begins an own part that does not stay. Unannounced bytes never stay.
        """
        digest = None if digest is None else check_digest(digest)
        with disk_errors(f"write to {self.root}"):
            ingest = Ingest(self, _open_sequential(make_workspace(self.root), digest), digest, size)
        try:
            ingest.resume()
            yield ingest
        finally:
            ingest.close()

    def assemble(self, digest: str, size: int) -> AbstractContextManager[Assembly]:
        """Put together a blob of known digest and size from pieces that come in any order.

        Left without a commit, its bytes stay for the next assembly of it, as those of an ingest do, and with the
        same exception. Raises StoreFailed if the disk has no room for the blob.
        """
        digest = check_digest(digest)
        return self._assembling(digest, digest, size)

    def assemble_unknown(self, source: str | None, size: int) -> AbstractContextManager[Assembly]:
        """The same for a blob of unknown digest. Its bytes stay for the next assembly from that `source`."""
        key = None if source is None else f"sha256:{hashlib.sha256(source.encode()).hexdigest()}"
        return self._assembling(key, None, size)

    def check_room(self, needed: int) -> None:
        """Raise StoreFailed unless `needed` more bytes fit on the disk."""
        with disk_errors(f"write to {self.root}"):
            folder = make_workspace(self.root)
        check_room(folder, needed)

    @contextmanager
    def _assembling(self, part_name: str | None, digest: str | None, size: int) -> Iterator[Assembly]:
        with disk_errors(f"write to {self.root}"):
            part = open_part(make_workspace(self.root), part_name)
        assembly = Assembly(part, self.path, digest, size)
        try:
            assembly.resume()
            yield assembly
        finally:
            assembly.close()

    def _size(self, path: Path) -> int | None:
        with disk_errors(f"read blob {path}"), suppress(FileNotFoundError):
            status = path.stat()
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        return None


class Ingest:
    """One blob on its way in, made by `BlobStore.ingest`; for one thread at a time."""

    def __init__(self, store: BlobStore, part: Part, digest: str | None, size: int | None) -> None:
        self.offset = 0
        """Bytes held."""
        self.size = size
        """Bytes announced, if they were."""
        self._store, self._part, self._file, self._digest = store, part, part.file, digest
        self._hash = hashlib.sha256()

    def resume(self) -> None:
        """Hash what an earlier ingest left. More bytes than were announced are no beginning of this blob."""
        with disk_errors(f"read {self._part.path}"):
            while chunk := self._file.read(MIB):
                self._count(chunk)
        if self.size is not None and self.offset > self.size:
            self.restart()

    def write(self, chunk: bytes | bytearray) -> None:
        """Append. InvalidRequest, and back to the beginning, beyond the announced size."""
        if self.size is not None and self.offset + len(chunk) > self.size:
            self.restart()
            raise InvalidRequest(f"blob is longer than the {self.size} bytes announced")
        rest = memoryview(chunk)
        with disk_errors(f"write blob to {self._part.path}"):
            while rest:  # counted as it goes: what is hashed is what the file holds, also when the disk fills up
                written = self._file.write(rest)
                self._count(rest[:written])
                rest = rest[written:]

    def restart(self) -> None:
        """Drop the bytes held and begin again."""
        with disk_errors(f"write blob to {self._part.path}"):
            self._file.seek(0)
            self._file.truncate()
        self.offset, self._hash = 0, hashlib.sha256()

    @property
    def digest(self) -> str:
        """Of the bytes held."""
        return f"sha256:{self._hash.hexdigest()}"

    def commit(self) -> str:
        """Check the bytes, make them a blob that survives a power cut, and return their digest.

        Raises DigestMismatch and drops the bytes if they are not the ones announced; InvalidRequest, and keeps
        them, if there are fewer.
        """
        if self.size is not None and self.offset != self.size:
            raise InvalidRequest(f"blob ended after {self.offset} of the {self.size} bytes announced")
        digest = self.digest
        if self._digest is not None and self._digest != digest:
            self.abort()
            raise DigestMismatch(self._digest, digest)
        self._part.become(self._store.path(digest), self.offset)
        return digest

    def abort(self) -> None:
        """Drop the bytes for good. Does nothing after a commit."""
        self._part.drop()

    def close(self) -> None:
        """Let go; `BlobStore.ingest` calls it. A part that nobody can resume goes."""
        try:
            if self.offset == 0 or not self._part.can_be_resumed:
                self.abort()
        finally:
            self._part.close()

    def _count(self, chunk: bytes | bytearray | memoryview) -> None:
        self._hash.update(chunk)
        self.offset += len(chunk)


def _open_sequential(folder: Path, digest: str | None) -> Part:
    """A part to append to. One with a map beside it has holes and is left to the next assembly."""
    part = open_part(folder, digest)
    if not map_path(part.path).exists():
        return part
    part.close()
    return Part(*open_temp(folder))


def _is_blob_name(name: str) -> bool:
    return name.startswith("sha256-") and _DIGEST.fullmatch(name) is not None
