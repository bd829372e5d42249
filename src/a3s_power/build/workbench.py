"""Where GGUFs are made: new blobs that stay if the model needs them, and go with the work if not."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from a3s_power.gguf import GGUF, Layout, read_gguf, read_layout
from a3s_power.progress import Progress, Tell
from a3s_power.store.manifests import Layer
from a3s_power.store.models import ModelStore

_STEP_S = 0.2  # between two steps of progress, which also notice that nobody waits any more


class Writing(Protocol):
    """A file about to be written: `Merge`, `Quantization`."""

    size_bytes: int

    def write_to(self, write: Callable[[bytes | bytearray], object]) -> None:
        """Give `write` the file's bytes, in pieces. Blocks; stops if `write` raises."""


@dataclass(frozen=True, slots=True)
class Part:
    """A layer that is a GGUF, and its header."""

    layer: Layer
    gguf: GGUF

    def as_(self, media_type: str) -> Self:
        return replace(self, layer=replace(self.layer, media_type=media_type))


def digest_of(data: str | bytes) -> str:
    """What a blob of these bytes is called."""
    return f"sha256:{hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()}"


class Workbench:
    """The store while one model is made, with `tell` to hear of every step.

    What is made here is safe from clean-ups until the end; then it goes, unless a model needs it by now.
    """

    def __init__(self, store: ModelStore, tell: Tell) -> None:
        self.store = store
        self.tell = tell
        self.fresh: set[str] = set()
        """Digests of the blobs that came with this work."""
        self._borrowed: frozenset[str] = frozenset()
        self._pins = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pins.close()
        self.store.delete_unused(self.fresh | self._borrowed)

    def borrow(self, digests: Iterable[str]) -> None:
        """Blobs of a model stay until the end, even if that model goes."""
        borrowed = frozenset(digests)
        self._pins.enter_context(self.store.blobs.pin(borrowed))
        self._borrowed |= borrowed

    def path(self, part: Part) -> Path:
        """Where the part lies."""
        return self.store.blobs.path(part.layer.digest)

    def layout(self, part: Part) -> Layout:
        """Where in the part its entries lie. Raises as `read_layout`."""
        return read_layout(self.path(part))

    def add(self, media_type: str, data: str | bytes) -> Layer:
        """A layer of text at hand."""
        self._expect(digest_of(data))
        return self.store.add_layer(media_type, data)

    def make(self, writing: Writing, media_type: str, step: Progress) -> Part:
        """Write the file into the store; `step` is told again and again, with how much of its total is done.

        Raises what `writing` does, and StoreFailed if the disk has no room; nothing is left of the file then.
        """
        blobs, size_bytes = self.store.blobs, writing.size_bytes
        blobs.check_room(size_bytes)
        with blobs.ingest(size=size_bytes) as ingest:
            tell_at = 0.0

            def write(piece: bytes | bytearray) -> None:
                nonlocal tell_at
                if (now := monotonic()) >= tell_at:
                    tell_at = now + _STEP_S
                    self.tell(replace(step, completed=step.total * ingest.offset // size_bytes))
                ingest.write(piece)

            writing.write_to(write)
            self._expect(ingest.digest)
            digest = ingest.commit()
        self.tell(replace(step, completed=step.total))
        return Part(Layer(media_type, digest, size_bytes), read_gguf(blobs.path(digest)))

    def _expect(self, digest: str) -> None:
        """A blob is about to come; one that is here already is not ours to take away."""
        self._pins.enter_context(self.store.blobs.pin([digest]))
        if not self.store.blobs.has(digest):
            self.fresh.add(digest)
