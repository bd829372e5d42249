"""Pieces: a blob cut up for several connections."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from a3s_power.units import MIB


@dataclass(slots=True)
class Piece:
    """Bytes `[position, end)` to be fetched; `pending` has come and waits for the disk."""

    position: int
    end: int
    pending: list[bytes] = field(default_factory=list)
    pending_bytes: int = 0

    def take(self, chunk: bytes) -> None:
        """Keep what is ours of it."""
        if chunk := chunk[: self.end - self.position - self.pending_bytes]:
            self.pending.append(chunk)
            self.pending_bytes += len(chunk)

    def wrote(self, count: int) -> None:
        self.position += count
        self.pending.clear()
        self.pending_bytes = 0


def plan(gaps: Iterable[tuple[int, int]], size: int, *, in_ranges: bool) -> list[Piece]:
    """What to fetch: a sixteenth of the blob each, 8 to 256 MiB; or one to its end, where there are no ranges.

    Gaps begin where blocks of the sink do, and so do pieces: they are whole numbers of MiB long.
    """
    if not in_ranges:
        return [Piece(start, size) for start, _ in gaps][:1]
    step = min(max(size // 16 // MIB * MIB, 8 * MIB), 256 * MIB)
    return [Piece(at, min(at + step, end)) for start, end in gaps for at in range(start, end, step)]
