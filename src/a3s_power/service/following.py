"""Following one reply from the engine's events to the client's: read, watched, and written down."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import msgspec

from a3s_power.generation import (
    CallPart,
    Done,
    Event,
    FinishReason,
    Text,
    Thinking,
    Timings,
    TokenLogprob,
    ToolCalls,
    Usage,
)
from a3s_power.messages import ToolCall
from a3s_power.prompt.reading import BlankTrimmer, Piece, Reader
from a3s_power.prompt.toolcalls import new_call_id
from a3s_power.service.repeats import RepeatGuard

log = logging.getLogger(__name__)


class Follower:
    """One reply. `said` is its text as the engine gave it, marks and all where a reader reads it."""

    def __init__(
        self,
        reader: Reader | None,
        *,
        shows_thinking: bool,
        count_prompt: Callable[[], Awaitable[int]],
        one_call: bool = False,
    ) -> None:
        self.said: list[str] = []
        self._reader = reader
        self._trimmer = BlankTrimmer()
        self._calls = _Calls()
        self._one_call = one_call
        self._shows_thinking = shows_thinking
        self._count_prompt = count_prompt
        self._guard = RepeatGuard()
        self.tokens = 0
        """Of the reply so far, as far as events tell."""
        self.usage: Usage | None = None
        """What the engine says that it took, once it is done."""
        self._started_ns = time.monotonic_ns()

    async def follow(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events for the client.

        A model that is stuck is stopped, and so is one that goes on to a second call where it may make but one;
        then the Done is ours.
        """
        has_called = False
        async for event in events:
            is_stuck = self._watch(event)
            for told in self._told(event):
                if has_called and isinstance(told, CallPart | ToolCalls):
                    yield await self._done()
                    return
                yield told
                has_called = has_called or (self._one_call and isinstance(told, ToolCalls))
            if is_stuck:
                log.warning("a reply repeats itself and is stopped")
                for told in self._told(await self._done()):
                    yield told
                return

    def _watch(self, event: Event) -> bool:
        """Count the token that an event stands for; whether the model is stuck."""
        match event:
            case Text(text) | Thinking(text):
                self.tokens += 1
                return bool(text) and self._guard.is_stuck(text)
            case CallPart():
                self.tokens += 1
            case Done(usage=usage):
                self.usage = usage
        return False

    def _told(self, event: Event) -> Iterable[Event]:
        """What comes of one event. Every token passes here: no generators, which cost more than the work."""
        match event:
            case Text(text, logprobs):
                self.said.append(text)
                if self._reader is None:
                    return self._shown(self._trimmed(event))
                return self._shown(_with_logprobs(self._reader.feed(text), logprobs))
            case Thinking():
                return self._shown(self._trimmed(event))
            case CallPart() | ToolCalls():
                return self._shown((event,))
            case Done() if self._reader is not None:
                rest = self._shown(self._reader.finish())
                if self._reader.lost:
                    log.warning("a tool call could not be read")
                return [*rest, event]
        return (event,)

    def _trimmed(self, event: Text | Thinking) -> Sequence[Piece]:
        piece = self._trimmer.trim(event)
        return (piece,) if piece.text or piece.logprobs else ()

    def _shown(self, pieces: Sequence[Piece]) -> list[Piece]:
        """A client that wants no thoughts gets none, but every logprob it asked for."""
        shown: list[Piece] = []
        for piece in pieces:
            match piece:
                case CallPart():
                    shown.append(self._calls.part(piece))
                case ToolCalls(calls):
                    shown += self._calls.whole(calls)
                case Thinking(logprobs=logprobs) if not self._shows_thinking:
                    if logprobs:
                        shown.append(Text("", logprobs))
                case _:
                    shown.append(piece)
        return shown

    async def _done(self) -> Done:
        usage = Usage(await self._count_prompt(), self.tokens)
        return Done(FinishReason.STOP, usage, Timings(completion_ns=time.monotonic_ns() - self._started_ns))


class _Calls:
    """Sees to it that each call of a reply has an id, and is told in parts before it is told whole."""

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}  # by index

    def part(self, part: CallPart) -> CallPart:
        if part.index in self._ids:
            return part
        self._ids[part.index] = part.id or new_call_id()
        return replace(part, id=self._ids[part.index])

    def whole(self, calls: Sequence[ToolCall]) -> list[Piece]:
        told: list[Piece] = [
            self.part(CallPart(call.index, msgspec.json.encode(call.arguments).decode(), call.id, call.name))
            for call in calls
            if call.index not in self._ids
        ]
        return [*told, ToolCalls(tuple(replace(call, id=self._ids[call.index]) for call in calls))]


def _with_logprobs(pieces: list[Piece], logprobs: tuple[TokenLogprob, ...]) -> list[Piece]:
    """On the first piece that can carry them; where there is none, on an empty one: no token's is lost."""
    if not logprobs:
        return pieces
    for n, piece in enumerate(pieces):
        if isinstance(piece, Text | Thinking):
            return [*pieces[:n], replace(piece, logprobs=logprobs), *pieces[n + 1 :]]
    return [Text("", logprobs), *pieces]
