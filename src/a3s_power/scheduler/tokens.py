"""Admission by tokens: how much of a runner's KV cells each of its requests may fill.

The slots of one runner share one pool of cells. When its sequences together outgrow the pool, the engine fails all
of them at once, so each asks here first.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio


@dataclass(eq=False, slots=True)
class Reservation:
    """One request's share of a pool. For one task, and only inside its `TokenPool.reserved`."""

    _pool: "TokenPool"
    tokens: int = 0
    """Held now."""
    wanted: int = 0
    """What it waits for; the same as `tokens` unless it waits."""
    served: anyio.Event = field(default_factory=anyio.Event)
    """Set when a wait has ended."""

    @property
    def is_waiting(self) -> bool:
        """Then it holds nothing."""
        return self.wanted > self.tokens

    async def change(self, tokens: int) -> None:
        """Hold so many instead; to be called between two steps, when the engine is not at work for this request.

        Fewer, or as many, are held at once. More are held at once if they fit and nobody older waits. Else
        everything is given back and it waits, at its place by age; what it had computed may be lost by then.
        Holds nothing if it is cancelled in here. Raises ValueError for more than the pool's size.
        """
        if not 0 <= tokens <= self._pool.size:
            raise ValueError(f"{tokens} of {self._pool.size} tokens")
        self.tokens = tokens if tokens <= self.tokens else 0
        self.wanted = tokens
        self._pool.serve()
        if self.is_waiting:
            await self._wait()

    async def _wait(self) -> None:
        self.served = anyio.Event()
        try:
            await self.served.wait()
        except BaseException:
            self.tokens = self.wanted = 0  # it may have been served in the moment it was cancelled
            self._pool.serve()
            raise


class TokenPool:
    """The KV cells of one runner, `size` tokens, shared out so that they never overflow.

    Age decides, which is when `reserved` was entered: whoever waits is served before all who are younger, and
    nobody overtakes one that waits, or a large request would starve behind small ones. So when all want to grow
    and there is no room, the older ones get it, and the youngest is set aside until one of them leaves.

    There is no deadlock, because nobody holds tokens while it waits for some. A request in the middle of a step
    keeps its tokens until the step's end, and steps are bounded; at its end the request leaves, or wants more
    and gives all back if somebody older waits. So the oldest, which never wants more than `size`, always gets on.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._reservations: list[Reservation] = []  # oldest first

    @asynccontextmanager
    async def reserved(self, tokens: int) -> AsyncIterator[Reservation]:
        """Hold so many tokens, as soon as they fit and nobody waits; leaving gives back all that is held.

        None at all are had at once. Raises ValueError for more than `size`: they would never fit.
        """
        reservation = Reservation(self)
        self._reservations.append(reservation)
        try:
            await reservation.change(tokens)
            yield reservation
        finally:
            self._reservations.remove(reservation)
            self.serve()

    @property
    def free(self) -> int:
        """Tokens that nobody holds."""
        return self.size - sum(reservation.tokens for reservation in self._reservations)

    @property
    def is_contended(self) -> bool:
        """Whether somebody waits."""
        return any(reservation.is_waiting for reservation in self._reservations)

    def step(self, at_least: int, at_most: int) -> int:
        """How many more tokens an open-ended request should ask for next.

        A long step saves round trips to the engine, but others may have to wait for its end. So it is half of what
        is free, which leaves as much to who comes next; and if somebody waits already, the shortest.
        """
        return at_least if self.is_contended else max(at_least, min(at_most, self.free // 2))

    def serve(self) -> None:
        """Give to those who wait, oldest first, up to the first whose wish does not fit.

        Reservations call it whenever they hold or want something else.
        """
        free = self.free
        for reservation in self._reservations:
            if reservation.is_waiting:
                if reservation.wanted > free:
                    return
                free -= reservation.wanted
                reservation.tokens = reservation.wanted
                reservation.served.set()
