"""Part files: where bytes gather, under a lock, until they become a blob or a manifest by fsync and rename."""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from a3s_power.errors import StoreFailed

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space, or keep models elsewhere with OLLAMA_MODELS",
    errno.EDQUOT: "the disk quota is used up; free some space, or keep models elsewhere with OLLAMA_MODELS",
    errno.EACCES: "permission denied; check who owns the folder",
    errno.EPERM: "permission denied; check who owns the folder",
    errno.EROFS: "the file system is read-only; keep models elsewhere with OLLAMA_MODELS",
}


@contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """An OSError within becomes StoreFailed: `cannot <action>: the disk is full; …`."""
    try:
        yield
    except OSError as exc:
        raise StoreFailed(f"cannot {action}: {_ADVICE.get(exc.errno or 0, exc.strerror or exc)}") from exc


def workspace(root: Path) -> Path:
    """Where files bound for `root` are made: `.a3s-power/parts` beside it, symlinks followed.

    On the same file system, so that rename can move them in. Where `root` is a mount point that place is inside
    it: Ollama's prune leaves folders alone, and its glob for manifests looks four levels deep, no less.
    """
    root = root.resolve()
    beside = root.parent.stat().st_dev == root.stat().st_dev
    return (root.parent if beside else root) / ".a3s-power" / "parts"


def make_workspace(root: Path) -> Path:
    """`workspace(root)`, with `root` and itself on disk."""
    root.mkdir(parents=True, exist_ok=True)
    folder = workspace(root)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_locked(path: Path) -> FileIO | None:
    """Open `path`, made if absent, for us alone until it is closed. None while somebody else has it.

    The lock belongs to the file and not to its name: after a wait the name may be another file's, or the file a
    finished blob. So only a lock on the file that bears the name now counts.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _bears_name(fd, path):
                return FileIO(fd, "r+")
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def open_temp(folder: Path) -> tuple[Path, FileIO]:
    """A new, locked file under a random name, `<hex>.tmp`; the caller renames or removes it."""
    while True:
        path = folder / f"{secrets.token_hex(16)}.tmp"
        if file := open_locked(path):
            return path, file


def fsync_dir(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Part:
    """A blob's file before it is one, locked for its holder until closed."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path, self.file = path, file
        self.is_here = True
        """Neither a blob by now, nor dropped."""

    @property
    def can_be_resumed(self) -> bool:
        """Whether the next one who brings this blob will find this part."""
        return self.path.suffix == ".part"

    def become(self, blob: Path, size: int) -> None:
        """Turn into `blob`, whose digest was checked, so that it survives a power cut.

        If that is there already it is touched and the part dropped. One that somebody's crash cut short does not
        count.
        """
        if self._is_there(blob, size):
            return self.drop()
        with disk_errors(f"write blob {blob}"):
            os.fchmod(self.file.fileno(), 0o644)
            os.utime(self.file.fileno())  # the bytes may be old, and prunes go by age
            os.fsync(self.file.fileno())
            self.path.replace(blob)
            self.is_here = False
            fsync_dir(blob.parent)

    def drop(self) -> None:
        """Remove the file. Does nothing after it has become a blob."""
        if self.is_here:
            with disk_errors(f"delete {self.path}"):
                self.path.unlink(missing_ok=True)
            self.is_here = False

    def close(self) -> None:
        self.file.close()

    @staticmethod
    def _is_there(blob: Path, size: int) -> bool:
        with disk_errors(f"read blob {blob}"), suppress(FileNotFoundError):
            os.utime(blob)
            status = blob.stat()
            return stat.S_ISREG(status.st_mode) and status.st_size == size
        return False


def open_part(folder: Path, digest: str | None) -> Part:
    """The part to write to: under the digest's name if it is announced and nobody else is at it."""
    if digest is not None:
        path = folder / f"{digest.removeprefix('sha256:')}.part"
        if file := open_locked(path):
            return Part(path, file)
    return Part(*open_temp(folder))


def map_path(part: Path) -> Path:
    """Beside a part that is written out of order: which of its blocks are held. See `assembly`."""
    return part.with_suffix(".map")


def _bears_name(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
