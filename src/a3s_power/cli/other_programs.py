"""Where other programs keep models: LM Studio, Hugging Face's cache, Ollama's service, any folder.

The layouts are theirs: `models/<publisher>/<repository>/` in LM Studio,
`models--<publisher>--<repository>/snapshots/<commit>/` in huggingface_hub.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from os import DirEntry, scandir
from pathlib import Path
from typing import TypeAlias

import msgspec

from a3s_power.cli.found_models import Collection, Finds
from a3s_power.cli.gguf_sets import Problem, sort_out
from a3s_power.cli.ollama_store import is_store, stored_models
from a3s_power.errors import InvalidRequest

OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")
"""Where Ollama's installer for Linux has its service keep models."""

_MAX_DEPTH = 8  # folders within a place
_MAX_ENTRIES = 100_000  # files and folders of one place
_MAX_POINTER = 4096  # bytes
_MAX_SETTINGS = 2**20
_MACOS = "._"  # how it names what a file has besides its data, on disks that are not its own
_HUB_FOLDER = "models--*"

Environ: TypeAlias = Mapping[str, str]
Reader: TypeAlias = Callable[[str, Path], Finds]


def find(sources: Iterable[str], home: Path, environ: Environ) -> Finds:
    """What there is of each source: a name of PROGRAMS, or the path of a folder. Blocks: it reads headers.

    A program that is not here has left nothing; a folder that is not here is an InvalidRequest.
    """
    finds = Finds()
    for source in sources:
        if source in PROGRAMS:
            roots_of, read = PROGRAMS[source]
            for root in dict.fromkeys(roots_of(home, environ)):
                finds += _looked_into(source, root, read)
        else:
            folder = _expanded(source)
            if not folder.is_dir():
                raise InvalidRequest(f"{source} is neither a folder nor one of {', '.join(PROGRAMS)}")
            finds += _looked_into(source, folder.absolute(), _folder)
    return finds


def _looked_into(source: str, root: Path, read: Reader) -> Finds:
    try:
        root.stat()
        return read(source, root)
    except (FileNotFoundError, NotADirectoryError):
        return Finds()
    except OSError as exc:  # a service's files need not be everyone's to read
        return Finds(problems=(Problem(root, exc.strerror or str(exc)),))


def _expanded(text: str) -> Path:
    with suppress(RuntimeError):  # `~nobody`
        return Path(text).expanduser()
    return Path(text)


# ---- LM Studio ----


class _LMStudioSettings(msgspec.Struct):
    downloadsFolder: str = ""  # noqa: N815  its name in the file


def _lm_studio_roots(home: Path, _environ: Environ) -> list[Path]:
    homes = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    with suppress(OSError), (home / ".lmstudio-home-pointer").open("rb") as file:
        pointed = home / file.read(_MAX_POINTER).decode("utf-8", "replace").strip()
        if pointed != home and pointed.is_dir():
            homes.insert(0, pointed)
    return [*filter(None, map(_chosen_folder, homes)), *(each / "models" for each in homes)]


def _chosen_folder(lm_studio: Path) -> Path | None:
    """Where its user wants models instead. Those from before that stay in `models`."""
    with (
        suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError),
        (lm_studio / "settings.json").open("rb") as file,
    ):
        folder = msgspec.json.decode(file.read(_MAX_SETTINGS), type=_LMStudioSettings).downloadsFolder
        return Path(folder) if Path(folder).is_absolute() and Path(folder).is_dir() else None
    return None


def _lm_studio(source: str, root: Path) -> Finds:
    def repository_of(path: Path) -> Path:
        parts = path.relative_to(root).parts
        return root / parts[0] / parts[1] if len(parts) > 2 else path.parent

    paths, problems = gguf_files(root)
    finds = Finds(problems=tuple(problems))
    for folder, together in _grouped(paths, repository_of).items():
        match folder.relative_to(root).parts:
            case [publisher, repository]:
                finds += _collected(source, folder, together, publisher, repository)
            case _:
                finds += _collected(source, folder, together)
    return finds


# ---- Hugging Face ----


def _hugging_face_roots(home: Path, environ: Environ) -> list[Path]:
    if cache := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return [_expanded(cache)]
    cache = environ.get("XDG_CACHE_HOME") or str(home / ".cache")
    return [_expanded(environ.get("HF_HOME") or f"{cache}/huggingface") / "hub"]


def _hugging_face(source: str, root: Path) -> Finds:
    finds = Finds()
    for folder in sorted(islice(root.glob(_HUB_FOLDER), _MAX_ENTRIES)):
        seen: set[Path] = set()  # paths within a snapshot
        for snapshot in _snapshots(folder):
            finds += _looked_into(source, snapshot, partial(_snapshot, seen=seen))
    return finds


def _snapshot(source: str, root: Path, *, seen: set[Path]) -> Finds:
    """What no newer snapshot has: each holds only what was fetched while the repository was at its commit."""
    paths, problems = gguf_files(root)
    new = [path for path in paths if path.relative_to(root) not in seen]
    seen.update(path.relative_to(root) for path in new)
    _, *publisher, repository = root.parent.parent.name.split("--")
    finds = _collected(source, root, new, "".join(publisher), repository)
    return finds + Finds(problems=tuple(problems))


def _snapshots(folder: Path) -> list[Path]:
    """The newest first: that which `main` was at when something of it was fetched last, then by their changes."""
    try:
        changed = {path: path.stat().st_mtime for path in (folder / "snapshots").iterdir() if path.is_dir()}
    except OSError:
        return []
    main = ""
    with suppress(OSError, UnicodeDecodeError), (folder / "refs" / "main").open() as file:
        main = file.read(_MAX_POINTER).strip()
    return sorted(changed, key=lambda path: (path.name == main, changed[path]), reverse=True)


# ---- Ollama ----


def _ollama_roots(_home: Path, _environ: Environ) -> list[Path]:
    return [OLLAMA_SERVICE]


def _ollama(source: str, root: Path) -> Finds:
    models, problems = stored_models(root)
    return Finds(stored=tuple((source, model) for model in models), problems=tuple(problems))


PROGRAMS: Mapping[str, tuple[Callable[[Path, Environ], list[Path]], Reader]] = {
    "lmstudio": (_lm_studio_roots, _lm_studio),
    "huggingface": (_hugging_face_roots, _hugging_face),
    "ollama": (_ollama_roots, _ollama),
}
"""Where each keeps its models, and how they lie there."""


# ---- any folder ----


def _folder(source: str, root: Path) -> Finds:
    """A store of Ollama's or a cache of Hugging Face's wherever it lies, or just files."""
    if is_store(root):
        return _ollama(source, root)
    if next(root.glob(_HUB_FOLDER), None):
        return _hugging_face(source, root)
    paths, problems = gguf_files(root)
    finds = Finds(problems=tuple(problems))
    for folder, together in _grouped(paths, lambda path: path.parent).items():
        finds += _collected(source, folder, together)
    return finds


def _grouped(paths: Iterable[Path], key: Callable[[Path], Path]) -> dict[Path, list[Path]]:
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def _collected(
    source: str, folder: Path, paths: Iterable[Path], publisher: str = "", repository: str = ""
) -> Finds:
    found = sort_out(paths, folder)
    collection = Collection(source, folder, found.models, publisher, repository)
    return Finds((collection,), problems=found.problems)


def gguf_files(root: Path) -> tuple[list[Path], list[Problem]]:
    """The `.gguf` files under `root` in order, and the folders that could not be looked into.

    Follows links, into each folder once; goes no deeper than _MAX_DEPTH folders and no further than _MAX_ENTRIES
    entries. Raises OSError if it may not look into `root` itself.
    """
    found: list[Path] = []
    problems: list[Problem] = []
    seen: set[tuple[int, int]] = set()
    left = _MAX_ENTRIES
    waiting = [(root, 0)]
    while waiting and left:
        folder, depth = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with scandir(folder) as listing:
                entries = list(islice(listing, left))
        except OSError as exc:
            if folder == root:
                raise
            problems.append(Problem(folder, exc.strerror or str(exc)))
            continue
        left -= len(entries)
        for entry in entries:
            if _is_folder(entry):
                if depth < _MAX_DEPTH:
                    waiting.append((Path(entry), depth + 1))
            elif entry.name.lower().endswith(".gguf") and not entry.name.startswith(_MACOS):
                found.append(Path(entry))
    if not left:
        problems.append(Problem(root, f"only its first {_MAX_ENTRIES} files and folders were looked at"))
    return sorted(found), problems


def _is_folder(entry: DirEntry[str]) -> bool:
    with suppress(OSError):  # a link to itself, say
        return entry.is_dir()
    return False
