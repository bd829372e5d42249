"""Bytes of GGUFs that are here, for a GGUF that is being made of them."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from a3s_power.errors import InvalidGGUF
from a3s_power.gguf import Layout, Span
from a3s_power.store.parts import disk_errors
from a3s_power.units import MIB

Write = Callable[[bytes | bytearray], object]

_PREAMBLE = struct.Struct("<4sIQQ")  # magic, version, tensors, keys


def preamble(tensors: int, keys: int) -> bytes:
    """How a GGUF (version 3) with so many of both begins."""
    return _PREAMBLE.pack(b"GGUF", 3, tensors, keys)


def padding(size_bytes: int, alignment: int) -> bytes:
    """Zeros up to the next multiple of the alignment."""
    return bytes(-size_bytes % alignment)


@dataclass(frozen=True, slots=True)
class Original:
    """A file that is copied from. Its owner calls it `name`; at `path` it may be called anything."""

    name: str
    path: Path
    layout: Layout

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def opened(self) -> "Iterator[Opened]":
        """Raises StoreFailed if it cannot be read, InvalidGGUF if its size is no longer what it was.

        That its bytes are the same is for those to know who keep it.
        """
        with disk_errors(f"read {self.name}"):
            file = self.path.open("rb")
        with file:
            if os.fstat(file.fileno()).st_size != self.layout.gguf.file_size:
                raise self.changed()
            yield Opened(self, file)

    def changed(self) -> InvalidGGUF:
        return InvalidGGUF(f"{self} changed while it was read")


@dataclass(frozen=True, slots=True)
class Opened:
    """An original while it is open."""

    original: Original
    file: BinaryIO

    def copy(self, span: Span, write: Write) -> None:
        """Give `write` these bytes, in pieces of 1 MiB at most. Raises as `Original.opened`."""
        for offset in range(0, span.size_bytes, MIB):
            write(self.read(Span(span.offset + offset, min(MIB, span.size_bytes - offset))))

    def read(self, span: Span) -> bytes:
        """These bytes. Raises as `Original.opened`."""
        with disk_errors(f"read {self.original.name}"):
            self.file.seek(span.offset)
            data = self.file.read(span.size_bytes)
        if len(data) < span.size_bytes:
            raise self.original.changed()
        return data
