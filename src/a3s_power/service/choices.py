"""Several generations for one reply: told as they come, ended together."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from a3s_power.generation import Event, GenerationRequest
from a3s_power.service.chat import ChatService

Told = tuple[int, Event]
"""Which choice, from 0, and what came of it."""

MAX_AT_ONCE = 4
"""Generations of one reply, as many as a model usually has slots: more would only fill the queue for others."""


def variants(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """The request so many times. A seed would give the same each time: it goes up by one from each to the next."""
    seed = request.options.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int | float) or seed < 0:
        return [request] * count
    return [replace(request, options={**request.options, "seed": int(seed) + n}) for n in range(count)]


@asynccontextmanager
async def choices(
    service: ChatService, requests: Sequence[GenerationRequest]
) -> AsyncIterator[AsyncIterator[Told]]:
    """Begin all of them. Raises as `ChatService.open` does; leaving the block stops what is left.

    The others begin when the first has: what is wrong with one is mostly wrong with all, and is then raised once,
    before anything is told. Later on, one that fails ends all.
    """
    if len(requests) > 1:
        async with _together(service, requests) as told:
            yield told
    else:
        async with service.open(requests[0]) as generation:
            yield ((0, event) async for event in generation.events)


@asynccontextmanager
async def _together(
    service: ChatService, requests: Sequence[GenerationRequest]
) -> AsyncIterator[AsyncIterator[Told]]:
    sender, receiver = anyio.create_memory_object_stream[Told]()
    places = anyio.CapacityLimiter(MAX_AT_ONCE)

    async def tell(index: int, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        async with places, service.open(requests[index]) as generation:
            task_status.started()
            async for event in generation.events:
                await sender.send((index, event))

    async def tell_all(*, task_status: TaskStatus[None]) -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(tell, 0)
            task_status.started()
            for index in range(1, len(requests)):
                tasks.start_soon(tell, index)
        sender.close()  # not when one has failed: what was told until then would seem to be all

    with _one_error(), sender, receiver:
        async with anyio.create_task_group() as tasks:
            await tasks.start(tell_all)
            yield receiver
            tasks.cancel_scope.cancel()


@contextmanager
def _one_error() -> Iterator[None]:
    """Raise the first error of task groups as it is."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None
