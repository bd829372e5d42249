"""Tool calls as llama-server streams them, in fragments, put together again."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from a3s_power.messages import ToolCall

log = logging.getLogger(__name__)

_decode_arguments = msgspec.json.Decoder(dict[str, Any]).decode


class Function(msgspec.Struct):
    """A piece of a call: the name comes first and whole, the arguments bit by bit."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct):
    """A piece of the call with that index."""

    index: int = 0
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class CallCollector:
    """One reply's calls. A call is complete when the next one begins, or the reply ends.

    One whose arguments are no JSON object by then, because the limit on tokens cut it off, is left out.
    """

    def __init__(self) -> None:
        self._open: dict[int, list[str]] = {}  # index → id, name, arguments so far
        self._emitted = 0

    def add(self, deltas: Sequence[ToolCallDelta]) -> Iterator[ToolCall]:
        """Take in fragments; gives the calls that are complete now."""
        for delta in deltas:
            if delta.index not in self._open:
                yield from self._complete()
            parts = self._open.setdefault(delta.index, ["", "", ""])
            parts[0] += delta.id or ""
            parts[1] += delta.function.name or ""
            parts[2] += delta.function.arguments or ""

    def finish(self) -> Iterator[ToolCall]:
        """The calls that are still open."""
        yield from self._complete()
        for _, name, _ in self._open.values():
            log.warning("a tool call could not be read", extra={"tool": name})

    def _complete(self) -> Iterator[ToolCall]:
        for index, (call_id, name, arguments) in sorted(self._open.items()):
            with suppress(msgspec.DecodeError, RecursionError):
                yield ToolCall(name, _decode_arguments(arguments or "{}"), call_id, self._emitted)
                self._emitted += 1
                del self._open[index]
