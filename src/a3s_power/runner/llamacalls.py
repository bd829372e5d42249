"""Tool calls as llama-server streams them, in fragments."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from a3s_power.generation import CallPart, ToolCalls
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


@dataclass(slots=True)
class _Open:
    """The call whose arguments are coming. `key` is the engine's index; ours counts the calls that were begun."""

    key: int
    index: int
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


class CallCollector:
    """One reply's calls, which the engine tells one after the other.

    A call is complete when the next one begins, or the reply ends. One whose arguments are no JSON object by then,
    because the limit on tokens or a stop sequence cut it off, stays in parts.
    """

    def __init__(self) -> None:
        self._open: _Open | None = None
        self._count = 0

    def add(self, deltas: Sequence[ToolCallDelta]) -> Iterator[CallPart | ToolCalls]:
        """Take in fragments; gives them as parts, and the call that is complete now."""
        for delta in deltas:
            arguments = delta.function.arguments or ""
            if self._open is None or self._open.key != delta.index:
                yield from self.finish()
                self._open = self._begun(delta)
                yield CallPart(self._open.index, arguments, self._open.id, self._open.name)
            elif arguments:
                yield CallPart(self._open.index, arguments)
            self._open.arguments.append(arguments)

    def finish(self) -> Iterator[CallPart | ToolCalls]:
        """The call that is still open, if there is one."""
        call, self._open = self._open, None
        if call is None:
            return
        text = "".join(call.arguments)
        if not text:
            text = "{}"
            yield CallPart(call.index, text)
        try:
            arguments = _decode_arguments(text)
        except (msgspec.DecodeError, RecursionError):
            log.warning("a tool call could not be read", extra={"tool": call.name})
        else:
            yield ToolCalls((ToolCall(call.name, arguments, call.id, call.index),))

    def _begun(self, delta: ToolCallDelta) -> _Open:
        self._count += 1
        return _Open(delta.index, self._count - 1, delta.id or "", delta.function.name or "")
