"""Several generations for one reply: told as they come, ended together."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import anyio
from anyio.streams.memory import MemoryObjectSendStream

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
    first, *others = requests
    async with service.open(first) as generation:
        if others:
            async with _together(service, generation.events, others) as told:
                yield told
        else:
            yield ((0, event) async for event in generation.events)


@asynccontextmanager
async def _together(
    service: ChatService, first: AsyncIterator[Event], others: Sequence[GenerationRequest]
) -> AsyncIterator[AsyncIterator[Told]]:
    sender, receiver = anyio.create_memory_object_stream[Told]()
    with _one_error(), sender, receiver:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_tell_all, service, first, others, sender)
            yield receiver
            tasks.cancel_scope.cancel()


async def _tell_all(
    service: ChatService,
    first: AsyncIterator[Event],
    others: Sequence[GenerationRequest],
    sender: MemoryObjectSendStream[Told],
) -> None:
    places = anyio.CapacityLimiter(MAX_AT_ONCE)

    async def tell_first() -> None:
        async with places:
            await _tell(0, first, sender)

    async def open_and_tell(index: int, request: GenerationRequest) -> None:
        async with places, service.open(request) as generation:
            await _tell(index, generation.events, sender)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell_first)
        for index, request in enumerate(others, start=1):
            tasks.start_soon(open_and_tell, index, request)
    sender.close()  # not when one has failed: what was told until then would seem to be all


async def _tell(index: int, events: AsyncIterator[Event], sender: MemoryObjectSendStream[Told]) -> None:
    async for event in events:
        await sender.send((index, event))


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
