"""From the shards of a split GGUF to one file.

What a shard says of itself is llama.cpp's (`tools/gguf-split`): `split.no` from 0, `split.count`, and
`split.tensors.count` for all shards together. The first holds the model's metadata; the others may say nothing
else, not even their architecture or alignment. The errors are worded as Ollama words them (`server/create.go`).
"""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from a3s_power.build.copying import Original, Write, padding, preamble
from a3s_power.errors import InvalidGGUF
from a3s_power.gguf import GGUF, MAX_TENSORS, Layout, Span, SplitName, read_layout, split_name
from a3s_power.store.parts import disk_errors

_OFFSET = struct.Struct("<Q")


class Shard(Original):
    """One file of a split model."""

    def __str__(self) -> str:
        return f"split GGUF {_quoted(self.name)}"


def is_shard(gguf: GGUF) -> bool:
    """Whether the file is one of several that only together make a model."""
    return (_split_number(gguf, "count") or 0) > 1


def split_models(files: Mapping[str, Path]) -> list[tuple[Shard, ...]]:
    """The models that the shards in `files` make up, by file name, each with its shards in order. Blocks.

    Raises InvalidGGUF, which names the file, for one that is no GGUF or not the shard that its name says, and
    for a model that is not complete; StoreFailed if one cannot be read.
    """
    models: dict[tuple[str, int], dict[int, Shard]] = {}
    for file_name, path in sorted(files.items()):
        shard = Shard(file_name, path, _read_layout(file_name, path))
        name = _checked_name(shard)
        shards = models.setdefault((name.prefix, name.count), {})
        if name.index in shards:
            raise InvalidGGUF(f"split GGUF has duplicate shard index {name.index}")
        shards[name.index] = shard
    for (_, count), shards in models.items():
        if len(shards) != count:  # no index is twice or too high here: with this many, none is missing
            raise InvalidGGUF(f"{next(iter(shards.values()))} has {len(shards)} shards, expected {count}")
    return [tuple(shard for _, shard in sorted(shards.items())) for shards in models.values()]


class Merge:
    """One GGUF (version 3) of all `shards` of a model, in order, about to be written.

    Its metadata are the first shard's, byte for byte and in their order, without those on the split; its tensors
    are those of all shards, with the first one's alignment. Nothing is kept in memory but the headers.

    Raises InvalidGGUF for shards that do not belong together.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        tensors = [tensor for shard in shards for tensor in shard.layout.gguf.tensors]
        _check_belong_together(shards, len(tensors))
        first = shards[0].layout
        self._shards = shards
        self._alignment = first.gguf.alignment
        self._key_values = [span for key, span in first.key_values.items() if not _is_of_split(key, first.gguf)]
        self._preamble = preamble(len(tensors), len(self._key_values))
        entries = (span for shard in shards for span in shard.layout.tensors.values())
        self._header_bytes = len(self._preamble) + sum(span.size_bytes for span in (*self._key_values, *entries))
        self.size_bytes = self._padded(self._header_bytes) + sum(
            self._padded(tensor.size_bytes) for tensor in tensors
        )

    def write_to(self, write: Write) -> None:
        """Give `write` the file's `size_bytes` bytes in pieces of mostly 1 MiB. Blocks; stops if `write` raises.

        Raises InvalidGGUF if a shard's size is no longer what it was; that its bytes are the same is for those to
        know who keep it. StoreFailed if one cannot be read.
        """
        write(self._preamble)
        with self._shards[0].opened() as file:
            for span in self._key_values:
                file.copy(span, write)
        self._write_index(write)
        write(self._padding(self._header_bytes))
        for shard in self._shards:
            with shard.opened() as file:
                gguf = shard.layout.gguf
                for tensor in gguf.tensors:
                    file.copy(Span(gguf.data_offset + tensor.offset, tensor.size_bytes), write)
                    write(self._padding(tensor.size_bytes))

    def _write_index(self, write: Write) -> None:
        """The entries as they are but for their offsets: a name need not be UTF-8, a type can have two numbers."""
        offset = 0
        for shard in self._shards:
            with shard.opened() as file:
                for tensor in shard.layout.gguf.tensors:
                    start, size_bytes = shard.layout.tensors[tensor.name]
                    file.copy(Span(start, size_bytes - _OFFSET.size), write)
                    write(_OFFSET.pack(offset))
                    offset += self._padded(tensor.size_bytes)

    def _padded(self, size_bytes: int) -> int:
        return size_bytes + len(self._padding(size_bytes))

    def _padding(self, size_bytes: int) -> bytes:
        return padding(size_bytes, self._alignment)


def _read_layout(file_name: str, path: Path) -> Layout:
    try:
        with disk_errors(f"read {file_name}"):
            return read_layout(path)
    except InvalidGGUF as exc:
        raise InvalidGGUF(f"{file_name}: {exc}") from exc


def _checked_name(shard: Shard) -> SplitName:
    """What the file's name says, once its metadata say the same."""
    gguf, name = shard.layout.gguf, split_name(shard.name)
    if name is None:
        raise InvalidGGUF(f"{shard} must use llama.cpp split filename pattern")
    if name.count != (count := _split_number(gguf, "count") or 0):
        raise InvalidGGUF(f"{shard} filename count {name.count} does not match metadata count {count}")
    if name.index >= count:
        raise InvalidGGUF(f"{shard} has invalid shard index {name.index}")
    if (index := _split_number(gguf, "no")) is None:
        raise InvalidGGUF(f"{shard} is missing split.no metadata")
    if name.index != index:
        raise InvalidGGUF(f"{shard} filename index {name.index} does not match metadata index {index}")
    return name


def _split_number(gguf: GGUF, key: str) -> int | None:
    number = gguf.metadata.get(f"split.{key}", gguf.arch(f"split.{key}"))
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _is_of_split(key: str, gguf: GGUF) -> bool:
    return key.startswith(("split.", f"{gguf.architecture}.split."))


def _check_belong_together(shards: Sequence[Shard], tensor_count: int) -> None:
    if tensor_count > MAX_TENSORS:
        raise InvalidGGUF(f"{shards[0]} has {tensor_count} tensors, at most {MAX_TENSORS} are allowed")
    architecture = shards[0].layout.gguf.architecture
    names: set[str] = set()
    for shard in shards:
        gguf = shard.layout.gguf
        if gguf.architecture not in {architecture, ""}:
            raise InvalidGGUF(f"{shard} architecture does not match {_quoted(shards[0].name)}")
        if (expected := _split_number(gguf, "tensors.count")) not in {tensor_count, None}:
            raise InvalidGGUF(f"{shards[0]} has {tensor_count} tensors, expected {expected}")
        for tensor in gguf.tensors:
            if tensor.name in names:
                raise InvalidGGUF(f"{shard} contains duplicate tensor {_quoted(tensor.name)}")
            names.add(tensor.name)


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)  # as Go's %q, near enough
