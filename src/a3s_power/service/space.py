"""The store as files on a disk: what each takes, reading one, removing what nothing needs."""

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

import anyio.to_thread

from a3s_power.errors import BlobInUse, BlobNotFound
from a3s_power.store.blobs import check_digest
from a3s_power.store.models import ModelStore
from a3s_power.store.parts import disk_errors
from a3s_power.store.prune import Pruned, bytes_on_disk, part_files, prune


@dataclass(frozen=True, slots=True)
class Tally:
    """So many files of one kind."""

    count: int
    size_bytes: int

    @classmethod
    def of(cls, sizes: Collection[int]) -> Self:
        return cls(len(sizes), sum(sizes))


@dataclass(frozen=True, slots=True)
class ModelSpace:
    """The blobs of one model, each counted once."""

    name: str
    size_bytes: int
    shared_bytes: int
    """Of these, what other models need too."""

    @property
    def unique_bytes(self) -> int:
        """What would go with the model."""
        return self.size_bytes - self.shared_bytes


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What takes the disk, and what is left of it."""

    models: tuple[ModelSpace, ...]
    """The largest first."""
    blobs: Tally
    unused: Tally
    """Of the blobs, those that no model needs, as far as manifests can be read."""
    partial: Tally
    """What is, or was, on its way into the store; Ollama's downloads too."""
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.blobs.size_bytes + self.partial.size_bytes


@dataclass(frozen=True, slots=True)
class BlobFile:
    """A blob that is here: its bytes never change, though it may go."""

    digest: str
    path: Path


class Space:
    """Looks after the disk under a store."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    async def use(self) -> DiskUse:
        """What takes the disk now."""
        return await anyio.to_thread.run_sync(self._use)

    async def prune(self, *, dry_run: bool) -> Pruned:
        """What went, or in a dry run what would go. Raises as `store.prune` does."""
        return await anyio.to_thread.run_sync(lambda: prune(self._store, dry_run=dry_run))

    async def blob(self, digest: str) -> BlobFile:
        """A blob to read. Raises InvalidDigest, BlobNotFound."""
        await anyio.to_thread.run_sync(self._store.blobs.size, digest)
        return BlobFile(check_digest(digest), self._store.blobs.path(digest))

    async def delete_blob(self, digest: str) -> None:
        """Remove a blob, however young. Raises InvalidDigest, BlobNotFound, BlobInUse.

        And StoreFailed if any manifest cannot be read: nobody knows what it needs.
        """
        await anyio.to_thread.run_sync(self._delete_blob, digest)

    def _use(self) -> DiskUse:
        sizes = self._blob_sizes()
        needs = {stored.name.display: stored.manifest.digests for stored in self._store.manifests.all()}
        unused = sizes.keys() - frozenset().union(*needs.values())
        return DiskUse(
            models=shares(needs, sizes),
            blobs=Tally.of(sizes.values()),
            unused=Tally.of([sizes[digest] for digest in unused]),
            partial=Tally.of(_sizes_on_disk([*part_files(self._store), *self._parts_of_ollama()])),
            free_bytes=_free_bytes(self._store.blobs.root),
        )

    def _blob_sizes(self) -> Mapping[str, int]:
        sizes = {}
        for digest in self._store.blobs.digests():
            with suppress(BlobNotFound):  # it went in between
                sizes[digest] = self._store.blobs.size(digest)
        return sizes

    def _parts_of_ollama(self) -> Iterable[Path]:
        """Its downloads; beside each lie `…-partial-<n>`, some bytes about what has come."""
        return self._store.blobs.root.glob("sha256-*-partial")

    def _delete_blob(self, digest: str) -> None:
        digest, store = check_digest(digest), self._store
        with store.lock:
            if digest not in store.blobs.digests():  # not by its path: some file systems ignore case
                raise BlobNotFound(digest)
            stored = store.manifests.all(strict=True)
            if users := [each.name.display for each in stored if digest in each.manifest.digests]:
                raise BlobInUse(digest, f"model '{users[0]}'")
            if not store.blobs.delete(digest):
                raise BlobInUse(digest, "a create, pull or push that is under way")


def shares(needs: Mapping[str, AbstractSet[str]], sizes: Mapping[str, int]) -> tuple[ModelSpace, ...]:
    """What each model takes, the largest first: model → digests, and digest → bytes of the blobs that are here."""
    users = Counter(chain.from_iterable(needs.values()))
    models = [
        ModelSpace(
            name,
            size_bytes=sum(sizes.get(digest, 0) for digest in digests),
            shared_bytes=sum(sizes.get(digest, 0) for digest in digests if users[digest] > 1),
        )
        for name, digests in needs.items()
    ]
    return tuple(sorted(models, key=lambda model: (-model.size_bytes, model.name)))


def _sizes_on_disk(paths: Iterable[Path]) -> list[int]:
    sizes = []
    for path in paths:
        with disk_errors(f"read {path}"), suppress(FileNotFoundError):  # it has become a blob
            sizes.append(bytes_on_disk(path.stat()))
    return sizes


def _free_bytes(folder: Path) -> int:
    """What we may still write there; the folder itself may be yet to come."""
    with disk_errors(f"read {folder}"):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        return shutil.disk_usage(existing).free
