"""Pruning: what nothing needs any more leaves the store, carefully, because Ollama may share it.

Unlike Ollama's own, it touches no file that is not a blob: partial downloads and temporary files are somebody's.
"""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from a3s_power.errors import StoreFailed
from a3s_power.store.blobs import BlobStore, disk_errors, open_locked, workspace
from a3s_power.store.models import ModelStore

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


def prune(store: ModelStore, *, older_than_s: float = UNUSED_KEPT_S, now: float | None = None) -> Pruned:
    """Delete blobs that no manifest needs, if older than that and not pinned, and our own stale parts.

    Does nothing but warn if any manifest cannot be read: nobody knows what it needs. `now` is Unix time.
    """
    now = time.time() if now is None else now
    with store.lock:
        try:
            used = store.manifests.referenced_digests(strict=True)
        except StoreFailed as exc:
            _log.warning("not pruning, a manifest cannot be read: %s", exc)
            return Pruned()
        sizes = [_delete_blob(store.blobs, d, now - older_than_s) for d in store.blobs.digests() if d not in used]
    sizes += [_delete_part(path, now, older_than_s) for path in _parts(store)]
    freed = [size for size in sizes if size is not None]
    if freed:
        _log.info("pruned %d files, %d bytes", len(freed), sum(freed))
    return Pruned(len(freed), sum(freed))


def migrate_names(blobs: BlobStore) -> int:
    """Rename `sha256:<hex>`, as old Ollama stores have it, to `sha256-<hex>`; how many there were."""
    with disk_errors(f"rename blobs in {blobs.root}"):
        old = [path for path in _listed(blobs.root) if path.name.startswith("sha256:")]
        for path in old:
            path.replace(path.with_name(path.name.replace(":", "-", 1)))
    return len(old)


def _delete_blob(blobs: BlobStore, digest: str, before: float) -> int | None:
    """The size of the blob, if it was older and went."""
    path = blobs.path(digest)
    with disk_errors(f"prune {path}"), suppress(FileNotFoundError):
        status = path.stat()
        if status.st_mtime < before and blobs.delete(digest):
            return status.st_size
    return None


def _delete_part(path: Path, now: float, older_than_s: float) -> int | None:
    """The size of the part, if nobody writes to it and it was old. What cannot be resumed goes sooner."""
    kept_s = PARTS_KEPT_S if path.suffix == ".part" else older_than_s
    with disk_errors(f"prune {path}"), suppress(FileNotFoundError):
        status = path.stat()
        if status.st_mtime < now - kept_s and (file := open_locked(path)):
            with file:
                path.unlink()
            return status.st_size
    return None


def _parts(store: ModelStore) -> list[Path]:
    """The parts of blobs and of manifests; one folder, unless one of the two is linked elsewhere."""
    folders = {workspace(root) for root in (store.blobs.root, store.manifests.root) if root.is_dir()}
    with disk_errors(f"list parts of {store.blobs.root}"):
        return [path for folder in folders for path in _listed(folder) if path.suffix in {".part", ".tmp"}]


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
