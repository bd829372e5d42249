"""Replies that are bound to be a tool call: which calls may be made, and reading the one that is.

A grammar sees to it that the reply is `{"name": "get_weather", "arguments": {…}}` and nothing else behind its
thoughts (`grammar/calls.py`), whatever the model's own way to call is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import msgspec

from a3s_power.generation import JSON, CallPart, ChatInput, GenerationRequest, Text, ToolCalls
from a3s_power.messages import ToolCall
from a3s_power.prompt.definitions import name_of
from a3s_power.prompt.objects import Kind, Objects, Part
from a3s_power.prompt.reading import Piece, Reader
from a3s_power.prompt.toolcalls import begun_call, new_call_id


def offered(request: GenerationRequest) -> GenerationRequest:
    """The request with the tools that the model may see: none where it may call none."""
    if isinstance(request.input, ChatInput) and request.input.tools and not request.tool_choice.is_allowed:
        return replace(request, input=replace(request.input, tools=()))
    return request


def forced_tools(request: GenerationRequest) -> Sequence[JSON]:
    """The tools of which one must be called; none where the model is free."""
    choice = request.tool_choice
    if not isinstance(request.input, ChatInput) or not (choice.is_required or choice.name):
        return ()
    return [tool for tool in request.input.tools if choice.name in ("", name_of(tool))]


class ForcedReader:
    """Follows a reply that is one call. `reader` tells thoughts from answer; the answer is the call."""

    def __init__(self, reader: Reader, new_id: Callable[[], str] = new_call_id) -> None:
        self._reader = reader
        self._new_id = new_id
        self._objects = Objects("")
        self._call: ToolCall | None = None
        self._arguments: list[str] = []
        self._is_whole = False

    @property
    def lost(self) -> bool:
        """Whether the call never came to its end: the limit on tokens cut it off."""
        return not self._is_whole

    def feed(self, text: str) -> list[Piece]:
        """What the text so far has settled."""
        return list(self._called(self._reader.feed(text)))

    def finish(self) -> list[Piece]:
        """What was held back; nothing more will come."""
        return list(self._called(self._reader.finish()))

    def _called(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if isinstance(piece, Text):
                for part in self._objects.feed(piece.text):
                    yield from self._told(part)
            else:
                yield piece

    def _told(self, part: Part) -> Iterator[CallPart | ToolCalls]:
        match part.kind:
            case Kind.HEAD if name := begun_call(part.text):
                self._call = ToolCall(name, {}, self._new_id())
                yield CallPart(0, id=self._call.id, name=name)
            case Kind.INNER if self._call:
                self._arguments.append(part.text)
                yield CallPart(0, part.text)
            case Kind.OBJECT if self._call:
                yield from self._whole(self._call)

    def _whole(self, call: ToolCall) -> Iterator[ToolCalls]:
        try:
            arguments = msgspec.json.decode("".join(self._arguments))
        except (ValueError, RecursionError):  # any object may be nested without end
            return
        self._is_whole = True
        yield ToolCalls((replace(call, arguments=arguments),))
