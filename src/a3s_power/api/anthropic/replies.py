"""Whole replies in Anthropic's shapes, and what they share with streamed ones."""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from a3s_power.generation import CallPart, Done, Event, FinishReason, Text, Thinking, ToolCalls, Usage
from a3s_power.messages import ToolCall
from a3s_power.wire import anthropic as wire

STOP_REASONS: Mapping[FinishReason, str] = {FinishReason.STOP: "end_turn", FinishReason.LENGTH: "max_tokens"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reply tells of its request: the client's spelling of the model, and what was to end the text."""

    model: str
    stop_sequences: Sequence[str] = ()


def message(
    model: str, content: Sequence[wire.ReplyBlock], stop: wire.Stop, usage: wire.TokenUsage
) -> wire.MessagesReply:
    """A message under an id of its own. Where Ollama has null for no content it has [], which clients add to."""
    return wire.MessagesReply(
        id=f"msg_{secrets.token_hex(12)}",
        model=model,
        content=list(content),
        stop_reason=stop.stop_reason,
        stop_sequence=stop.stop_sequence,
        usage=usage,
    )


def whole(asked: Asked, events: Sequence[Event]) -> wire.MessagesReply:
    """The reply that all events make together."""
    calls = {call.index: call for event in events if isinstance(event, ToolCalls) for call in event.calls}
    begun = {event.index for event in events if isinstance(event, CallPart)}
    (done,) = (event for event in events if isinstance(event, Done))
    content = tuple(_blocks(events, calls))
    return message(asked.model, content, ending(asked, done, len(begun), len(calls)), tokens(done.usage))


def ending(asked: Asked, done: Done, calls_begun: int, calls_whole: int) -> wire.Stop:
    """Why the reply ended. A call that the limit cut off is none to be answered."""
    is_cut_off = calls_whole < calls_begun and done.finish_reason is FinishReason.LENGTH
    if calls_whole and not is_cut_off:
        return wire.Stop("tool_use")
    # Anthropic names the text that ended a reply, where Ollama says `end_turn`; but never one of the model's own.
    if done.stop_sequence and done.stop_sequence in asked.stop_sequences:
        return wire.Stop("stop_sequence", done.stop_sequence)
    return wire.Stop(STOP_REASONS[done.finish_reason])


def tokens(usage: Usage) -> wire.TokenUsage:
    """As Ollama, all of the prompt; Anthropic's three counts of it, which clients add up, make the same sum."""
    return wire.TokenUsage(usage.prompt_tokens, usage.completion_tokens)


def _blocks(events: Sequence[Event], calls: Mapping[int, ToolCall]) -> Iterator[wire.ReplyBlock]:
    """In the order of a stream of the same events, less what that cannot take back: a call that was cut off.

    Blank text makes no block. Models put it between calls, and Anthropic's own API takes none back.
    """
    pieces = (event for event in events if _kind_of(event) is not None)
    for kind, run in groupby(pieces, _kind_of):
        match kind:
            case int() if kind in calls:
                yield wire.ToolUseBlock(calls[kind].id, calls[kind].name, dict(calls[kind].arguments))
            case "thinking":
                yield wire.ThinkingBlock(_joined(run))
            case "text" if (text := _joined(run)).strip():
                yield wire.TextBlock(text)


def _kind_of(event: Event) -> str | int | None:
    """Of the block that an event is a piece of: for a call, which one. None for what adds to none."""
    match event:
        case Text(text) if text:
            return "text"
        case Thinking(text) if text:
            return "thinking"
        case CallPart(index=index):
            return index
    return None


def _joined(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text | Thinking))
