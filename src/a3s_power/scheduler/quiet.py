"""Work for the time in which nobody asks for anything."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio

LOOK_S, WATCH_S = 10.0, 0.1
"""How often one looks whether it is quiet, and, while the work is done, whether it still is."""


class Asked(Protocol):
    """What one is asked for."""

    @property
    def quiet_s(self) -> float:
        """Seconds since the last request ended; 0 while there are any."""


async def when_quiet(asked: Asked, quiet_s: float, work: Callable[[], Awaitable[bool]]) -> None:
    """Do the work once it has been quiet for so long; who asks for something ends it.

    It is begun again the next time, until it says that it is done.
    """
    is_done = False
    while not is_done:
        await anyio.sleep(LOOK_S)
        if asked.quiet_s < quiet_s:
            continue
        async with anyio.create_task_group() as tasks:

            async def until_asked(scope: anyio.CancelScope = tasks.cancel_scope) -> None:
                while asked.quiet_s:  # noqa: ASYNC110  nobody tells when
                    await anyio.sleep(WATCH_S)
                scope.cancel()

            tasks.start_soon(until_asked)
            is_done = await work()
            tasks.cancel_scope.cancel()
