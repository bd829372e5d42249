"""Replies full of vectors, written in pieces with a turn for others between them."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

import anyio.lowlevel

from a3s_power.errors import InvalidRequest
from a3s_power.service.embed import EmbeddingFailed, Vectors

CHUNK_FLOATS = 1 << 15
"""A third of a MB of JSON: no other client waits more than a millisecond while it is written."""


@contextmanager
def client_is_to_blame() -> Iterator[None]:
    """What goes wrong in the runner is 400 too: so embeddings have it in Ollama."""
    try:
        yield
    except EmbeddingFailed as exc:
        raise InvalidRequest(str(exc).strip()) from exc


def row_groups(vectors: Vectors) -> Iterator[tuple[int, Vectors]]:
    """The number of the first row, and as many rows from there as are written at once."""
    rows = max(1, CHUNK_FLOATS // vectors.shape[1])
    for start in range(0, len(vectors), rows):
        yield start, vectors[start : start + rows]


async def filled(frame: bytes, empty: bytes, arrays: Iterable[bytes]) -> AsyncIterator[bytes]:
    """A reply's JSON in which `empty`, `"data":[]`, holds the members of all these JSON arrays."""
    before, _, after = frame.partition(empty)
    before += empty[:-1]
    for array in arrays:
        yield before + array[1:-1]
        before = b","
        await anyio.lowlevel.checkpoint()
    yield b"]" + after
