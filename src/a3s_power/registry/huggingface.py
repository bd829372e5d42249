"""Which files of a Hugging Face repository make one model, where its registry does not say.

Hugging Face speaks the registry protocol itself and makes a manifest for each quantization, but refuses one whose
GGUF is split (status 400, `sharded`). Then its own API lists the files, their sizes and digests:
`/api/models/<repository>/tree/main`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import quote

import msgspec

from a3s_power.gguf import split_name
from a3s_power.registry.errors import BadReply
from a3s_power.registry.replies import place
from a3s_power.registry.session import Ask, Session
from a3s_power.units import MIB

_MAX_LISTING = 8 * MIB  # about 300 bytes a file; repositories of quantizations have a few hundred
_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q6_K", "Q8_0")
"""For the tag `latest`; where a repository has none of them, its smallest model."""


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository, kept there under the sha256 of its bytes."""

    path: str
    digest: str
    size: int

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    def url_path(self, repository: str) -> str:
        """Where on the site its bytes are."""
        return f"/{repository}/resolve/main/{quote(self.path)}"


@dataclass(frozen=True, slots=True)
class SplitModel:
    """The parts of one GGUF in their order, and the projector that goes with it, if there is one."""

    parts: tuple[RepoFile, ...]
    projector: RepoFile | None

    @property
    def files(self) -> tuple[RepoFile, ...]:
        return (*self.parts, self.projector) if self.projector else self.parts


class _LFS(msgspec.Struct):
    oid: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Entry(msgspec.Struct):
    path: str
    lfs: _LFS | None = None


async def list_files(session: Session, repository: str) -> list[RepoFile]:
    """The large files of `user/repo`. Raises RegistryFailed."""
    url = session.base.join(f"/api/models/{repository}/tree/main?recursive=true")
    reply = await session.call(Ask("GET", url), limit=_MAX_LISTING)
    try:
        entries = msgspec.json.decode(reply.body, type=list[_Entry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadReply(f"{place(url)} sent no list of files: {exc}") from exc
    return [RepoFile(entry.path, f"sha256:{entry.lfs.oid}", entry.lfs.size) for entry in entries if entry.lfs]


def split_model(files: Iterable[RepoFile], tag: str) -> SplitModel | None:
    """The split GGUF that a tag means: a quantization (`q4_k_m`), its folder, or a file's name.

    None if there is none. Sets with parts missing do not count.
    """
    sets: dict[str, list[RepoFile]] = defaultdict(list)
    projectors = []
    for file in sorted(files, key=lambda file: file.path):
        if not file.name.lower().endswith(".gguf"):
            continue
        if "mmproj" in file.name.lower():
            projectors.append(file)
        elif shard := split_name(file.name):
            sets[str(PurePosixPath(file.path).with_name(shard.prefix))].append(file)
    whole = {prefix: parts for prefix, parts in sets.items() if _is_whole(parts)}
    if (prefix := _chosen(whole, tag)) is None:
        return None
    return SplitModel(tuple(whole[prefix]), _projector(projectors))


def _is_whole(parts: Sequence[RepoFile]) -> bool:
    """Whether these, in the order of their names, are all that their names count up to, and more than one."""
    numbers = [(shard.index, shard.count) for part in parts if (shard := split_name(part.name))]
    return len(parts) > 1 and numbers == [(index, len(parts)) for index in range(len(parts))]


def _chosen(sets: dict[str, list[RepoFile]], tag: str) -> str | None:
    """The set whose prefix ends as the tag says; the plainest if there are several."""
    for wanted in _PREFERRED if tag == "latest" else (tag,):
        named = [prefix for prefix, parts in sets.items() if _is_named(prefix, parts, wanted.lower())]
        if named:
            return min(named, key=len)
    if tag != "latest" or not sets:
        return None
    return min(sets, key=lambda prefix: sum(part.size for part in sets[prefix]))


def _is_named(prefix: str, parts: Sequence[RepoFile], wanted: str) -> bool:
    stem = PurePosixPath(prefix.lower())
    is_quantization = re.search(rf"(^|[-._]){re.escape(wanted)}$", stem.name) is not None
    return is_quantization or stem.parent.name == wanted or wanted in {part.name.lower() for part in parts}


def _projector(files: Sequence[RepoFile]) -> RepoFile | None:
    """In half precision if there is a choice."""
    halves = [file for file in files if re.search(r"[-._]f16\.", file.name.lower())]
    return next(iter([*halves, *files]), None)
