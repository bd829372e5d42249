"""Following one reply from the engine's events to the client's: read, watched, and written down."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace

from a3s_power.generation import Done, Event, FinishReason, Text, Thinking, Timings, TokenLogprob, ToolCalls, Usage
from a3s_power.prompt.reading import BlankTrimmer, Piece, Reader
from a3s_power.prompt.toolcalls import new_call_id
from a3s_power.service.repeats import RepeatGuard

log = logging.getLogger(__name__)


class Follower:
    """One reply. `said` is its text as the engine gave it, marks and all where a reader reads it."""

    def __init__(
        self, reader: Reader | None, *, shows_thinking: bool, count_prompt: Callable[[], Awaitable[int]]
    ) -> None:
        self.said: list[str] = []
        self._reader = reader
        self._trimmer = BlankTrimmer()
        self._shows_thinking = shows_thinking
        self._count_prompt = count_prompt
        self._guard = RepeatGuard()
        self._pieces = 0
        self._started_ns = time.monotonic_ns()

    async def follow(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events for the client. A model that is stuck is stopped, with a Done of our own."""
        async for event in events:
            for told in self._told(event):
                yield told
            if isinstance(event, Text | Thinking) and self._is_stuck(event.text):
                for told in self._told(await self._done()):
                    yield told
                return

    def _is_stuck(self, text: str) -> bool:
        self._pieces += bool(text)
        return bool(text) and self._guard.is_stuck(text)

    def _told(self, event: Event) -> Iterable[Event]:
        """What comes of one event. Every token passes here: no generators, which cost more than the work."""
        match event:
            case Text(text, logprobs):
                self.said.append(text)
                if self._reader is not None:
                    return self._shown(_with_logprobs(self._reader.feed(text), logprobs))
                return self._trimmed(event)
            case Thinking():
                return self._trimmed(event)
            case ToolCalls(calls):
                return (ToolCalls(tuple(call if call.id else replace(call, id=new_call_id()) for call in calls)),)
            case Done() if self._reader is not None:
                rest = self._shown(self._reader.finish())
                if self._reader.lost:
                    log.warning("a tool call could not be read")
                return [*rest, event]
        return (event,)

    def _trimmed(self, event: Text | Thinking) -> Iterable[Event]:
        piece = self._trimmer.trim(event)
        return self._shown([piece]) if piece.text or piece.logprobs else ()

    def _shown(self, pieces: list[Piece]) -> list[Piece]:
        """A client that wants no thoughts gets none, but every logprob it asked for."""
        if self._shows_thinking:
            return pieces
        told = (Text("", piece.logprobs) if isinstance(piece, Thinking) else piece for piece in pieces)
        return [piece for piece in told if isinstance(piece, ToolCalls) or piece.text or piece.logprobs]

    async def _done(self) -> Done:
        log.warning("a reply repeats itself and is stopped")
        usage = Usage(await self._count_prompt(), self._pieces)
        return Done(FinishReason.STOP, usage, Timings(completion_ns=time.monotonic_ns() - self._started_ns))


def _with_logprobs(pieces: list[Piece], logprobs: tuple[TokenLogprob, ...]) -> list[Piece]:
    """On the first piece that can carry them; where there is none, on an empty one: no token's is lost."""
    if not logprobs:
        return pieces
    for n, piece in enumerate(pieces):
        if isinstance(piece, Text | Thinking):
            return [*pieces[:n], replace(piece, logprobs=logprobs), *pieces[n + 1 :]]
    return [Text("", logprobs), *pieces]
