"""Pruning: what nothing needs any more leaves the store, carefully, because Ollama may share it.

Unlike Ollama's own, it touches no file that is not a blob: partial downloads and temporary files are somebody's.
"""

import logging
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from a3s_power.store.blobs import BlobStore
from a3s_power.store.models import ModelStore
from a3s_power.store.parts import disk_errors, map_path, open_locked, workspace

UNUSED_KEPT_S = 3600
"""A blob may be here before the manifest that needs it: Ollama's grace, and ours."""
PARTS_KEPT_S = 14 * 24 * 3600
"""How long an interrupted transfer can be resumed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went."""

    count: int = 0
    size_bytes: int = 0


def prune(
    store: ModelStore,
    *,
    older_than_s: float = UNUSED_KEPT_S,
    now: float | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Delete blobs that no manifest needs, if older than that and not pinned, and our own stale parts.

    Raises StoreFailed, and deletes nothing, if any manifest cannot be read: nobody knows what it needs. `now` is
    Unix time. A dry run only tells what would go.
    """
    now = time.time() if now is None else now
    with store.lock:
        used = store.manifests.referenced_digests(strict=True)
        unused = [digest for digest in store.blobs.digests() if digest not in used]
        sizes = [_prune_blob(store.blobs, digest, now - older_than_s, dry_run) for digest in unused]
    sizes += [_prune_part(path, now, older_than_s, dry_run) for path in part_files(store)]
    freed = [size for size in sizes if size is not None]
    if freed and not dry_run:
        _log.info("pruned %d files, %d bytes", len(freed), sum(freed))
    return Pruned(len(freed), sum(freed))


def migrate_names(blobs: BlobStore) -> int:
    """Rename `sha256:<hex>`, as old Ollama stores have it, to `sha256-<hex>`; how many there were."""
    with disk_errors(f"rename blobs in {blobs.root}"):
        old = [path for path in _listed(blobs.root) if path.name.startswith("sha256:")]
        for path in old:
            path.replace(path.with_name(path.name.replace(":", "-", 1)))
    return len(old)


def part_files(store: ModelStore) -> list[Path]:
    """The parts of blobs and of manifests; one folder, unless one of the two is linked elsewhere."""
    folders = {workspace(root) for root in (store.blobs.root, store.manifests.root) if root.is_dir()}
    with disk_errors(f"list parts of {store.blobs.root}"):
        return [path for folder in folders for path in _own(_listed(folder))]


def bytes_on_disk(status: os.stat_result) -> int:
    """What a part takes: one that is fetched in ranges has holes, and is as long as the whole from the start."""
    return min(status.st_size, status.st_blocks * 512)  # POSIX leaves the unit open; 512 everywhere we run


def _prune_blob(blobs: BlobStore, digest: str, before: float, dry_run: bool) -> int | None:
    """The size of the blob, if it was older and went."""
    path = blobs.path(digest)
    with disk_errors(f"prune {path}"), suppress(FileNotFoundError):
        status = path.stat()
        goes = status.st_mtime < before and not blobs.is_pinned(digest)
        if goes and (dry_run or blobs.delete(digest)):
            return status.st_size
    return None


def _prune_part(path: Path, now: float, older_than_s: float, dry_run: bool) -> int | None:
    """The size of the part, if nobody writes to it and nobody will: only a `.part` can be resumed.

    A temporary file, `<hex>.tmp`, is locked from its first moment to its last. A map has no lock, nor has the new
    one that is about to replace it, `….map.tmp`.
    """
    is_locked_in_use = path.suffixes == [".tmp"]
    kept_s = PARTS_KEPT_S if path.suffix == ".part" else -math.inf if is_locked_in_use else older_than_s
    with disk_errors(f"prune {path}"), suppress(FileNotFoundError):
        status = path.stat()
        if status.st_mtime < now - kept_s and (file := open_locked(path)):
            with file:
                if not dry_run:
                    path.unlink()
                    map_path(path).unlink(missing_ok=True)
            return bytes_on_disk(status)
    return None


def _own(listed: list[Path]) -> list[Path]:
    """Parts, and maps whose part is gone: the other maps go with theirs."""
    parts = [path for path in listed if path.suffix in {".part", ".tmp"}]
    mapped = {map_path(part) for part in parts}
    return parts + [path for path in listed if path.suffix == ".map" and path not in mapped]


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
