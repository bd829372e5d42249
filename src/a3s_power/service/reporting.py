"""Long work that reports as it goes: its steps are read as they come, its failure after the last of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import anyio
import anyio.from_thread
from anyio.streams.memory import MemoryObjectReceiveStream

from a3s_power.errors import AppError

T = TypeVar("T")

Work = Callable[[Callable[[T], None]], Awaitable[None]]
"""Is given what to tell its steps to, on the event loop's thread."""


@asynccontextmanager
async def reported(work: Work[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Do the work; yields its steps. Who reads them to the end gets its AppError, if it failed.

    Leaving early cancels the work. Steps wait for a reader who is slow.
    """
    send, receive = anyio.create_memory_object_stream[T](float("inf"))
    errors: list[AppError] = []
    failure: AppError | None = None

    async def run() -> None:
        def tell(step: T) -> None:
            with suppress(anyio.BrokenResourceError):  # nobody reads any more; what cannot be cancelled goes on
                send.send_nowait(step)

        async with send:
            try:
                await work(tell)
            except AppError as exc:
                errors.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        async with receive:
            try:
                yield _steps(receive, errors)
            except AppError as exc:
                failure = exc  # to be raised outside, where no group is wrapped around it
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def from_thread(tell: Callable[[T], None]) -> Callable[[T], None]:
    """What a thread tells its steps to. Ends its work, at the next step, if nobody waits for it any more."""

    def on_step(step: T) -> None:
        anyio.from_thread.check_cancelled()
        anyio.from_thread.run_sync(tell, step)

    return on_step


async def _steps(receive: MemoryObjectReceiveStream[T], errors: list[AppError]) -> AsyncIterator[T]:
    async for step in receive:
        yield step
    if errors:
        raise errors[0]
