"""Generating within a pool of tokens that is too small for everybody: reservations, and replies made in steps."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby

from anyio import CancelScope

from a3s_power.generation import Done, Event, FinishReason, Text, Timings, Usage
from a3s_power.runner.base import Runner, Sampling
from a3s_power.scheduler.tokens import Reservation, TokenPool

MIN_STEP, MAX_STEP = 256, 1024
"""Tokens. A step costs a millisecond or two, measured; others may have to wait for its end."""
_GUARD = "\n"
"""A text before another, which keeps blanks off it and grows together with few."""


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
                with CancelScope(shield=True):
                    await runner.settled()


async def in_steps(
    runner: Runner, pool: TokenPool, prompt: Sequence[int], sampling: Sampling, stack: AsyncExitStack
) -> AsyncIterator[Event]:
    """A reply to a prompt, of `sampling.max_tokens` at most, that reserves no more than its next step.

    Behind each step it goes on from its own tokens, at once or, if there is no room, when it is its turn again.
    The text is the same as without steps, but for the numerics of another slot, for dice, which are cast anew, and
    for the tokens of characters that took several, which the engine does not tell.
    """
    reply = _Stepped(runner, pool, prompt, sampling)
    size = reply.next_size(len(prompt))
    reply.reservation = await stack.enter_async_context(reserved(runner, pool, size, lambda: reply.is_over))
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
        self._begin = len(prompt)
        self._tokens = list(prompt)
        self._end = min(len(prompt) + sampling.max_tokens, pool.size)
        self._sampling = sampling

    def next_size(self, reached: int) -> int:
        """Tokens to hold for the next step, when the last one has got as far as `reached`.

        What it made in vain is made again. Then come as many tokens once more, or a step that keeps nothing, for a
        stop sequence longer than itself, or for tokens without text, would be repeated for ever.
        """
        in_vain = reached - len(self._tokens)
        return min(self._end, reached + max(in_vain, self._pool.step(MIN_STEP, MAX_STEP)))

    async def begin_step(self) -> AsyncIterator[Event]:
        """Have the engine go on from here to the end of what is reserved."""
        step = replace(self._sampling, max_tokens=self.reservation.tokens - len(self._tokens), tells_tokens=True)
        return await self.running.enter_async_context(self._runner.complete(self._tokens, step))

    async def told(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events of all steps."""
        done: Done | None = None
        while True:
            step = _Step()
            async for event in events:
                match event:
                    case Text(text, tokens=tokens):
                        step.add(text, tokens)
                        if text:
                            yield Text(text)
                    case Done():
                        made = len(self._tokens) - self._begin + event.usage.completion_tokens
                        done = _together(done, event)
            assert done is not None, "an engine that ends without a word is an error by now"
            reached = self.reservation.tokens
            if done.finish_reason is not FinishReason.LENGTH or reached == self._end:
                break
            await self.running.pop_all().aclose()
            self._tokens += await self._tokens_of(step)
            made = len(self._tokens) - self._begin
            if len(self._tokens) >= self._end:  # which lost tokens may grow to when they are guessed
                break
            await self.reservation.change(self.next_size(max(reached, len(self._tokens))))
            events = await self.begin_step()
        self.is_over = True
        usage = Usage(self._begin, min(made, self._end - self._begin), done.usage.cached_tokens)
        yield replace(done, usage=usage)

    async def _tokens_of(self, step: "_Step") -> list[int]:
        """What the step has made. What it held back is made again, so that the engine sees all of it."""
        tokens: list[int] = []
        for is_known, pieces in groupby(step.pieces, lambda piece: bool(piece[1])):
            if is_known:
                tokens += [token for _, known in pieces for token in known]
            else:
                tokens += await self._tokenized("".join(text for text, _ in pieces))
        return tokens

    async def _tokenized(self, text: str) -> list[int]:
        """The likely tokens of a text behind others: at a beginning some vocabularies see a blank before it."""
        guard = await self._runner.tokenize(_GUARD)
        guarded = await self._runner.tokenize(_GUARD + text)
        is_apart = guarded[: len(guard)] == guard
        return guarded[len(guard) :] if is_apart else await self._runner.tokenize(text)


@dataclass(slots=True)
class _Step:
    """What the engine has told of one step."""

    pieces: list[tuple[str, Sequence[int]]] = field(default_factory=list)
    """Texts, each with all its tokens, or with none where the engine has lost some."""
    _held: list[int] = field(default_factory=list)
    """Those whose text the engine holds back: it may become a stop sequence."""

    def add(self, text: str, tokens: Sequence[int]) -> None:
        """Take in a Text."""
        self._held += tokens
        if text:
            self.pieces.append((text, self._held if tokens else ()))
            self._held = []


def _together(before: Done | None, step: Done) -> Done:
    """A step's last word as that of all steps. To read the prompt again is part of the reply's time."""
    if before is None:
        return step
    again_ns = step.timings.prompt_ns + step.timings.completion_ns
    timings = Timings(before.timings.prompt_ns, before.timings.completion_ns + again_ns)
    return replace(step, usage=before.usage, timings=timings)
