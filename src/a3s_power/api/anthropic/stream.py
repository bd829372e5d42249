"""Streamed replies in Anthropic's shapes: one block after the other, each closed before the next begins."""

from a3s_power.api.anthropic.replies import Asked, ending, message, tokens
from a3s_power.generation import CallPart, Done, Event, Text, Thinking, ToolCalls
from a3s_power.wire import anthropic as wire


class MessageStream:
    """Events of one generation → events of the stream.

    `estimate` stands for the prompt's tokens at the beginning, when nobody has told them. Blank text begins no
    block, as in a whole reply: it waits for what follows it.
    """

    def __init__(self, asked: Asked, estimate: int) -> None:
        self._asked = asked
        self._estimate = estimate
        self._has_begun = False
        self._index = -1
        self._open: str | int | None = None
        """The kind of the block that is open, for a call its index."""
        self._blank = ""
        self._calls_begun = 0
        self._calls_whole = 0

    def tell(self, event: Event) -> list[wire.StreamEvent]:
        """What comes of one event."""
        told = self._told(event)
        if self._has_begun:
            return told
        self._has_begun = True
        prompt_tokens = event.usage.prompt_tokens if isinstance(event, Done) else self._estimate
        start = message(self._asked.model, (), wire.Stop(None), wire.TokenUsage(prompt_tokens, 0))
        return [wire.MessageStart(start), *told]

    def _told(self, event: Event) -> list[wire.StreamEvent]:
        match event:
            case Text(text) if text:
                return self._text(text)
            case Thinking(text) if text:
                return [*self._turned("thinking", wire.ThinkingBlock("")), self._more(wire.ThinkingDelta(text))]
            case CallPart():
                return self._part(event)
            case ToolCalls(calls):
                self._calls_whole += len(calls)
            case Done():
                stop = ending(self._asked, event, self._calls_begun, self._calls_whole)
                return [*self._closed(), wire.MessageDelta(stop, tokens(event.usage)), wire.MessageStop()]
        return []

    def _text(self, text: str) -> list[wire.StreamEvent]:
        text = self._blank + text
        if self._open != "text" and not text.strip():
            closed = self._closed()
            self._blank = text
            return closed
        return [*self._turned("text", wire.TextBlock("")), self._more(wire.TextDelta(text))]

    def _part(self, part: CallPart) -> list[wire.StreamEvent]:
        self._calls_begun += self._open != part.index
        told = self._turned(part.index, wire.ToolUseBlock(part.id, part.name, {}))
        return [*told, self._more(wire.InputDelta(part.arguments))] if part.arguments else told

    def _turned(self, kind: str | int, block: wire.ReplyBlock) -> list[wire.StreamEvent]:
        """A block of that kind is open afterwards."""
        if self._open == kind:
            return []
        told = self._closed()
        self._open = kind
        self._index += 1
        return [*told, wire.BlockStart(self._index, block)]

    def _more(self, delta: wire.Delta) -> wire.StreamEvent:
        return wire.BlockDelta(self._index, delta)

    def _closed(self) -> list[wire.StreamEvent]:
        """No block is open afterwards, and no blank waits."""
        is_open, self._open, self._blank = self._open is not None, None, ""
        return [wire.BlockStop(self._index)] if is_open else []
