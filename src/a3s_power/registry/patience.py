"""Patience: how often and how long to try again when a registry fails in the middle of something."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from a3s_power.registry.errors import RegistryFailed, RegistryUnreachable


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a registry, in seconds."""

    stall_s: float = 30.0
    """Without a byte, after which a connection is given up for another."""
    backoff_s: tuple[float, ...] = (1, 2, 4, 8, 16, 32)
    """Before each try after the first; progress begins again from the left."""
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


PATIENCE = Patience()


class Stalled(RegistryUnreachable):
    """Nothing came for too long; waiting longer will not help."""


class Retries:
    """Counts failures in a row, without progress between them."""

    def __init__(self, patience: Patience, reached: int = 0) -> None:
        self._patience, self._reached, self._failures = patience, reached, 0

    async def pause(self, exc: RegistryFailed, reached: int) -> None:
        """Wait until the next try makes sense; `exc` ended the last one at byte `reached`.

        Raises RegistryFailed if there were enough of them.
        """
        if reached > self._reached:
            self._reached, self._failures = reached, 0
        if self._failures == len(self._patience.backoff_s):
            raise RegistryFailed(f"max retries exceeded: {exc}") from exc
        if not isinstance(exc, Stalled):
            await self._patience.sleep(self._patience.backoff_s[self._failures])
        self._failures += 1
