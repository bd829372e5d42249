"""Generating within a pool of tokens that is too small for everybody: reservations, and replies made in steps."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import anyio

from a3s_power.generation import Done, Event, FinishReason, Text, Timings, Usage
from a3s_power.runner.base import Runner, Sampling
from a3s_power.scheduler.tokens import Reservation, TokenPool

MIN_STEP, MAX_STEP = 256, 1024
"""Tokens. A step costs a millisecond or two, measured; others may have to wait for its end."""


@asynccontextmanager
async def reserved(
    runner: Runner, pool: TokenPool, tokens: int, is_over: Callable[[], bool]
) -> AsyncIterator[Reservation]:
    """Hold tokens of the runner's pool. They are given back when the engine has let go of them."""
    async with pool.reserved(tokens) as reservation:
        try:
            yield reservation
        finally:
            if not is_over():
                with anyio.CancelScope(shield=True):
                    await runner.settled()


async def in_steps(
    runner: Runner, pool: TokenPool, prompt: Sequence[int], sampling: Sampling, stack: AsyncExitStack
) -> AsyncIterator[Event]:
    """A reply to a prompt, of `sampling.max_tokens` at most, that reserves no more than its next step.

    Behind each step it goes on from its own tokens, at once or, if there is no room, when it is its turn again.
    The text is the same as without steps, but for the numerics of another slot, and for dice, which are cast anew.
    """
    reply = _Stepped(runner, pool, prompt, sampling)
    reply.reservation = await stack.enter_async_context(
        reserved(runner, pool, reply.next_size(), lambda: reply.is_over)
    )
    reply.running = await stack.enter_async_context(AsyncExitStack())
    return reply.told(await reply.begin_step())


class _Stepped:
    """One reply."""

    reservation: Reservation
    running: AsyncExitStack
    """Ends the step that the engine is at."""

    def __init__(self, runner: Runner, pool: TokenPool, prompt: Sequence[int], sampling: Sampling) -> None:
        assert sampling.max_tokens is not None, "who knows no limit cannot reserve"
        self.is_over = False
        self._runner = runner
        self._pool = pool
        self._prompt = prompt
        self._tokens = list(prompt)
        self._end = len(prompt) + sampling.max_tokens
        self._sampling = sampling

    def next_size(self) -> int:
        """Tokens to hold for the next step."""
        return min(self._end, len(self._tokens) + self._pool.step(MIN_STEP, MAX_STEP))

    async def begin_step(self) -> AsyncIterator[Event]:
        """Have the engine go on from here to the end of what is reserved."""
        step = replace(self._sampling, max_tokens=self.reservation.tokens - len(self._tokens), tells_tokens=True)
        return await self.running.enter_async_context(self._runner.complete(self._tokens, step))

    async def told(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events of all steps."""
        done: Done | None = None
        while True:
            held: list[
                int
            ] = []  # whose text the engine still holds back: a character, or a stop sequence, half told
            async for event in events:
                match event:
                    case Text(text, tokens=tokens):
                        held += tokens
                        if text:
                            self._tokens += held if tokens else await self._runner.tokenize(text)
                            held = []
                            yield Text(text)
                    case Done():
                        done = _together(done, event)
            assert done is not None, "an engine that ends without a word is an error by now"
            if done.finish_reason is not FinishReason.LENGTH or self.reservation.tokens == self._end:
                break
            # What is held back is forgotten and made again, so that the engine sees all of it.
            done = replace(
                done, usage=replace(done.usage, completion_tokens=done.usage.completion_tokens - len(held))
            )
            await self.running.pop_all().aclose()
            await self.reservation.change(self.next_size())
            events = await self.begin_step()
        self.is_over = True
        yield replace(done, usage=replace(done.usage, prompt_tokens=len(self._prompt)))


def _together(before: Done | None, step: Done) -> Done:
    """A step's last word as that of all steps; what is cached of its own prompt counts only the first time."""
    if before is None:
        return step
    usage = Usage(
        before.usage.prompt_tokens,
        before.usage.completion_tokens + step.usage.completion_tokens,
        before.usage.cached_tokens,
    )
    timings = Timings(
        before.timings.prompt_ns + step.timings.prompt_ns,
        before.timings.completion_ns + step.timings.completion_ns,
    )
    return Done(step.finish_reason, usage, timings, step.stop_sequence)
