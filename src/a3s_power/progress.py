"""A step of long work, as clients are told of it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`total` and `completed` are bytes of one file, which `digest` names if that is known by now."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


Tell = Callable[[Progress], None]
