"""Who asks, and how urgently."""

from dataclasses import dataclass
from enum import StrEnum


class Priority(StrEnum):
    """Which of the two queues a request waits in."""

    INTERACTIVE = "interactive"
    """Somebody waits for the answer: goes before every batch request."""
    BATCH = "batch"
    """Takes what the interactive ones leave, and may wait for as long as they keep coming."""


@dataclass(frozen=True, slots=True)
class Requester:
    """Whose request it is."""

    client: str = ""
    """Whoever shares it shares one turn: a key's digest or an address. Never shown to anybody."""
    priority: Priority = Priority.INTERACTIVE
