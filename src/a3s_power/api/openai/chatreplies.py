"""Chats in OpenAI's shapes: one reply of all events, or a chunk for each."""

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from a3s_power.generation import (
    CallPart,
    Done,
    Event,
    FinishReason,
    Text,
    Thinking,
    TokenLogprob,
    ToolCalls,
)
from a3s_power.messages import ToolCall
from a3s_power.wire import openai as wire
from a3s_power.wire.ollama import DebugInfo

ASSISTANT = "assistant"
FINGERPRINT = "fp_ollama"


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of a stream have in common."""

    model: str
    """The client's spelling."""
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.randbelow(10**9)}")
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""


def usage(endings: Sequence[Done]) -> wire.Usage:
    """The prompt counts once, however many choices were made of it, and what was cached as the first found it."""
    prompt = endings[0].usage
    completion_tokens = sum(done.usage.completion_tokens for done in endings)
    return wire.Usage(
        prompt.prompt_tokens,
        completion_tokens,
        prompt.prompt_tokens + completion_tokens,
        wire.PromptTokensDetails(prompt.cached_tokens),
    )


def finish_reason(done: Done, *, has_called: bool) -> str:
    """Calls are why a model stops; but a limit stays one, whatever came before it."""
    is_stop = done.finish_reason is FinishReason.STOP
    return "tool_calls" if has_called and is_stop else done.finish_reason.value


# ---- whole ----


def whole(head: Head, choices: Sequence[Sequence[Event]]) -> wire.ChatCompletionReply:
    """The reply that the events of each choice make."""
    endings = [event for events in choices for event in events if isinstance(event, Done)]
    told = [_choice(index, events) for index, events in enumerate(choices)]
    return _reply(head, told, usage(endings))


def preview(head: Head, info: DebugInfo) -> wire.ChatCompletionReply:
    """The reply to `_debug_render_only`."""
    nothing = wire.ChatChoice(0, wire.ChatMessageReply("", ""), None)
    return _reply(head, [nothing], wire.Usage(0, 0, 0), info)


def _reply(
    head: Head, choices: list[wire.ChatChoice], used: wire.Usage, info: DebugInfo | None = None
) -> wire.ChatCompletionReply:
    return wire.ChatCompletionReply(
        head.id, "chat.completion", head.created, head.model, FINGERPRINT, choices, used, info
    )


def _choice(index: int, events: Sequence[Event]) -> wire.ChatChoice:
    (done,) = (event for event in events if isinstance(event, Done))
    pieces = [event for event in events if isinstance(event, Text | Thinking)]
    calls = [_call(call) for event in events if isinstance(event, ToolCalls) for call in event.calls]
    message = wire.ChatMessageReply(
        ASSISTANT,
        "".join(piece.text for piece in pieces if isinstance(piece, Text)),
        "".join(piece.text for piece in pieces if isinstance(piece, Thinking)),
        calls,
    )
    logprobs = _logprobs([logprob for piece in pieces for logprob in piece.logprobs])
    return wire.ChatChoice(index, message, finish_reason(done, has_called=bool(calls)), logprobs)


def _call(call: ToolCall) -> wire.ChatCallReply:
    arguments = msgspec.json.encode(call.arguments).decode()
    return wire.ChatCallReply(call.id, call.index, "function", wire.CalledFunction(call.name, arguments))


# ---- streamed ----


class ChunkWriter:
    """Makes chunks of events. For each choice: an opening one, then its events', of which the last is its Done."""

    def __init__(self, head: Head, count: int) -> None:
        self._head = head
        self._count = count
        self._callers: set[int] = set()
        """Choices with a whole call in them; one that was cut off is none."""
        self._endings: dict[int, Done] = {}

    def opening(self) -> list[wire.ChatCompletionChunk]:
        """What comes before all else. In order: OpenAI's own client counts choices so."""
        delta = wire.ChatDelta(role=ASSISTANT, content="")
        return [self._chunk([wire.ChunkChoice(index, delta, None)]) for index in range(self._count)]

    def of(self, index: int, event: Event) -> wire.ChatCompletionChunk | None:
        """What one event adds. Nothing for whole calls: they have been told in parts."""
        match event:
            case Text(text, logprobs):
                delta = wire.ChatDelta(content=text)
                return self._chunk([wire.ChunkChoice(index, delta, None, _logprobs(logprobs))])
            case Thinking(text, logprobs):
                delta = wire.ChatDelta(content="", reasoning=text)
                return self._chunk([wire.ChunkChoice(index, delta, None, _logprobs(logprobs))])
            case CallPart():
                delta = wire.ChatDelta(content="", tool_calls=[_part(event)])
                return self._chunk([wire.ChunkChoice(index, delta, None)])
            case ToolCalls():
                self._callers.add(index)
            case Done():
                self._endings[index] = event
                reason = finish_reason(event, has_called=index in self._callers)
                return self._chunk([wire.ChunkChoice(index, wire.ChatDelta(), reason)])
        return None

    def used(self) -> wire.ChatCompletionChunk:
        """What all choices together cost, when they have ended."""
        return self._chunk([], usage([self._endings[index] for index in range(self._count)]))

    def _chunk(self, choices: list[wire.ChunkChoice], used: wire.Usage | None = None) -> wire.ChatCompletionChunk:
        head = self._head
        return wire.ChatCompletionChunk(
            head.id, "chat.completion.chunk", head.created, head.model, FINGERPRINT, choices, used
        )


def _part(part: CallPart) -> wire.ChatCallDelta:
    """Id, type and name come once: clients put the strings of all pieces together."""
    if part.id:
        function = wire.CalledFunctionDelta(part.name, part.arguments)
        return wire.ChatCallDelta(part.index, part.id, "function", function)
    return wire.ChatCallDelta(part.index, function=wire.CalledFunctionDelta(arguments=part.arguments))


def _logprobs(entries: Iterable[TokenLogprob]) -> wire.ChatLogprobs | None:
    rows = [
        wire.ChatLogprob(entry.token, entry.logprob, list(entry.bytes), [_top(other) for other in entry.top])
        for entry in entries
    ]
    return wire.ChatLogprobs(rows) if rows else None


def _top(entry: TokenLogprob) -> wire.ChatTopLogprob:
    return wire.ChatTopLogprob(entry.token, entry.logprob, list(entry.bytes))
