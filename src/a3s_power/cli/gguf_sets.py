"""GGUF files that lie together, sorted into models: parts joined, projectors beside them. Reads headers only."""

import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from a3s_power.errors import InvalidGGUF
from a3s_power.gguf import GGUF, SplitName, read_gguf, split_name

_ENCODER_BLOCKS = ("v.blk.", "a.blk.")
_SUFFIX = re.compile(r"\.gguf$", re.IGNORECASE)


class Kind(Enum):
    MODEL = auto()
    PROJECTOR = auto()
    ADAPTER = auto()
    AID = auto()
    """What models are made or steered with."""


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """One file, whose header is good."""

    path: Path
    kind: Kind
    quantization: str
    """`Q4_K_M`; "unknown" if the header does not say it."""
    size_bytes: int
    identity: tuple[int, int]
    """The same for all links to it."""
    widths: frozenset[int] = frozenset()
    """Of a model's embedding; of a projector, which writes in that of its model, those that it can be."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something that looked like a model is none."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class GGUFSet:
    """All files of one model: its parts in order, one for most models, and the projector it sees or hears with."""

    parts: tuple[GGUFFile, ...]
    projector: GGUFFile | None = None

    @property
    def files(self) -> tuple[GGUFFile, ...]:
        return (*self.parts, self.projector) if self.projector else self.parts

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def stem(self) -> str:
        """The name of its file, without the parts' numbers: `m-Q8_0` of `m-Q8_0-00001-of-00002.gguf`."""
        name = self.parts[0].path.name
        split = split_name(name)
        return split.prefix if split else _SUFFIX.sub("", name)


@dataclass(frozen=True, slots=True)
class Sorted:
    """What GGUF files turn out to be."""

    models: tuple[GGUFSet, ...]
    projectors: tuple[GGUFFile, ...]
    adapters: tuple[GGUFFile, ...]
    problems: tuple[Problem, ...]


def sort_out(paths: Iterable[Path], root: Path) -> Sorted:
    """Which models the GGUF files `paths` make. Blocks: it reads every header.

    A projector goes with the models of its width in its own folder; one in `root`, the folder of them all, with
    those that have none of their own.
    """
    sets: dict[tuple[Path, str, int], list[GGUFFile | Problem]] = {}
    for path in sorted(paths):
        split = split_name(path.name) or SplitName(path.name, 0, 1)
        sets.setdefault((path.parent, split.prefix, split.count), []).append(look_at(path))
    found: dict[Kind, list[tuple[GGUFFile, ...]]] = {kind: [] for kind in Kind}
    problems: list[Problem] = []
    for (folder, prefix, count), looked in sets.items():
        files = tuple(file for file in looked if isinstance(file, GGUFFile))
        damaged = [file for file in looked if isinstance(file, Problem)]
        problems += damaged
        if not damaged and (reason := _incomplete(files, count)):
            problems.append(Problem(folder / prefix, reason))
        elif not damaged:
            found[files[0].kind].append(files)
    projectors = [files[0] for files in found[Kind.PROJECTOR]]
    models = (GGUFSet(parts, _projector_of(parts[0], projectors, root)) for parts in found[Kind.MODEL])
    adapters = (file for files in found[Kind.ADAPTER] for file in files)
    return Sorted(tuple(models), tuple(projectors), tuple(adapters), tuple(problems))


def parts_beside(path: Path) -> list[Path]:
    """Of a file whose name says that it is one of several, those that lie there, itself among them; else none."""
    if (split := split_name(path.name)) is None:
        return []
    names = ((beside, split_name(beside.name)) for beside in path.parent.iterdir())
    return sorted(
        beside for beside, name in names if name and (name.prefix, name.count) == (split.prefix, split.count)
    )


def look_at(path: Path) -> GGUFFile | Problem:
    """What the file at `path` is, by its header."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
            return Problem(path, "it is no file")
        gguf = read_gguf(path)
    except InvalidGGUF as exc:
        return Problem(path, str(exc))
    except OSError as exc:
        return Problem(path, exc.strerror or str(exc))
    kind, identity = _kind(path, gguf), (status.st_dev, status.st_ino)
    return GGUFFile(path, kind, gguf.file_type_name, status.st_size, identity, _widths(kind, gguf))


def _kind(path: Path, gguf: GGUF) -> Kind:
    if gguf.is_aid:
        return Kind.AID
    if gguf.is_adapter:
        return Kind.ADAPTER
    return Kind.PROJECTOR if gguf.is_projector or path.name.startswith("mmproj") else Kind.MODEL


def _widths(kind: Kind, gguf: GGUF) -> frozenset[int]:
    """None for a model that only embeds: it neither sees nor hears.

    A projector's own word is not enough: `projection_dim` is its encoder's width in files of LLaVA's time. What it
    writes is the width of a tensor, whose name depends on the projector's type, after the encoder's blocks.
    """
    if kind is Kind.PROJECTOR:
        last = (tensor for tensor in gguf.tensors if not tensor.name.startswith(_ENCODER_BLOCKS))
        return frozenset(width for tensor in last for width in tensor.shape)
    is_embedder = gguf.arch("pooling_type") is not None
    return frozenset() if is_embedder or not gguf.embedding_length else frozenset({gguf.embedding_length})


def _incomplete(parts: Sequence[GGUFFile], count: int) -> str:
    if count == 1:
        return ""
    names = [split_name(part.path.name) for part in parts]
    here = {name.index for name in names if name and name.index < count}
    return f"only {len(here)} of its {count} parts are here" if len(here) < count else ""


def _projector_of(model: GGUFFile, projectors: Sequence[GGUFFile], root: Path) -> GGUFFile | None:
    """In half precision if there is a choice."""
    fitting = [file for file in projectors if file.widths & model.widths]
    for place in (model.path.parent, root):
        beside = [file for file in fitting if file.path.parent == place]
        if beside:
            return min(beside, key=lambda file: (file.quantization != "F16", file.path))
    return None
