"""Python environments beside ours, for programs that must not share it: made whole, or not at all.

An environment at `engines/cuda` is a link to a folder `engines/cuda-<random>`. The link is replaced in one step
once the new folder is whole, and folders that it does not name are swept away: those replaced, failed, abandoned.
"""

import fcntl
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from a3s_power.setup import pip
from a3s_power.setup.children import Say, run
from a3s_power.setup.errors import SetupFailed


@dataclass(frozen=True, slots=True)
class Environment:
    """One that is being made."""

    folder: Path
    environ: Mapping[str, str]
    lock: int
    say: Say

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return python_in(self.folder)

    def install(self, requirement: str, index: str) -> None:
        """Take one distribution from `index` alone, and what it needs from where the user's pip looks.

        From `index` alone because others may have the same version, built otherwise.
        """
        settings = self._run("pip config list", ["-m", "pip", "config", "list"], lambda _line: None)
        reach = pip.environment(self.environ, settings)
        with_indexes = pip.environment(self.environ, settings, with_indexes=True)
        install = ["-m", "pip", *pip.INSTALL]
        self._run("pip", [*install, "--no-deps", requirement], self.say, reach | {"PIP_INDEX_URL": index})
        self._run("pip", [*install, requirement], self.say, with_indexes)

    def _run(self, what: str, arguments: list[str], say: Say, environ: Mapping[str, str] | None = None) -> str:
        argv = [str(self.python), "-I", *arguments]  # -I: neither PYTHONPATH nor the user's own packages
        return run(what, argv, self.environ if environ is None else environ, say, keep_open=self.lock)


def python_in(folder: Path) -> Path:
    """The interpreter of the environment in `folder`."""
    return folder / "bin" / "python"


@contextmanager
def new_environment(place: Path, environ: Mapping[str, str], say: Say) -> Iterator[Environment]:
    """An environment to fill, of the same Python as ours, that takes `place` when the block ends well.

    However else it ends, `place` is as it was. `say` is given what pip says, line by line. Raises SetupFailed.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(place.parent) as lock:
        _sweep(place)
        made = Path(tempfile.mkdtemp(prefix=f"{place.name}-", dir=place.parent))
        try:
            run("venv", [sys.executable, "-I", "-m", "venv", str(made)], environ, say, keep_open=lock)
            yield Environment(made, environ, lock, say)
            _link(place, made)
        finally:
            _sweep(place)


@contextmanager
def _alone_in(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; it is free when we, and all who inherited the descriptor, have ended."""
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise SetupFailed(f"another set-up is at work in {folder}; try again when it has ended") from exc
        yield lock.fileno()


def _link(place: Path, made: Path) -> None:
    link = made / "link"
    link.symlink_to(made.name)
    link.replace(place)


def _sweep(place: Path) -> None:
    """Remove every folder of `place` but the one it names."""
    for folder in place.parent.glob(f"{place.name}-*"):
        if not (place.exists() and folder.samefile(place)):
            shutil.rmtree(folder, ignore_errors=True)
