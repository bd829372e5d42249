"""What a gpt-oss model says, out of the harmony format it says it in.

The format is OpenAI's (the `openai/harmony` repository, `docs/format.md`). An answer is a row of messages,
`<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>`: a header, then a body. The channel tells reasoning
from answer, and a recipient in the header, `to=functions.get_weather`, makes the body a tool call's arguments.
The prompt ends in `<|start|>assistant`, so what we read begins inside the first header.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Self, cast

import msgspec

from a3s_power.generation import JSON, CallPart, Text, Thinking, ToolCalls
from a3s_power.messages import Message, ToolCall
from a3s_power.prompt.definitions import name_of
from a3s_power.prompt.toolcalls import new_call_id

PRESERVED_TOKENS = ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|constrain|>")
"""What the engine must leave in the text. `<|call|>` and `<|return|>` end generation, and may be left out."""

HEADER_CHARS = 512
"""How much of a header is read. Real ones have a few dozen characters."""

_MARKERS = (*PRESERVED_TOKENS, "<|call|>", "<|return|>")
_MARKER = re.compile("(" + "|".join(map(re.escape, _MARKERS)) + ")")
# The models mistype headers: `commentary?`, a second channel after the first, a channel named like a tool.
_CHANNEL = re.compile(r"<\|channel\|>\s*(analysis|commentary|final)")
_RECIPIENT = re.compile(r"\bto=(functions\.)?([^\s<]+)")
_PARTICIPANTS = ("all", "assistant", "user")  # they can be spoken to, but not called

_KEPT_NAMES = ("browser.open", "browser.search", "browser.find", "python")  # tools gpt-oss was trained with
_JSON_BLANKS = " \t\r\n"
_SEPARATORS = str.maketrans(" -.", "___")


# ---- names ----


@dataclass(frozen=True, slots=True)
class ToolNames:
    """The names that the client gave to tools, and those that the model sees.

    Harmony shows tools as TypeScript, where `get-weather` is a subtraction: the model sees `get_weather`.
    `tools` are the definitions with the model's names.
    """

    tools: tuple[JSON, ...]
    _seen: Mapping[str, str]
    _given: Mapping[str, str]

    @classmethod
    def of(cls, tools: Sequence[JSON]) -> Self:
        """The names of these definitions. One without a name stays as it is."""
        given: dict[str, str] = {}
        seen: dict[str, str] = {}
        numbers: dict[str, Iterator[int]] = {}
        for name in map(name_of, tools):
            if name is not None and name not in seen:
                seen[name] = _unique(_identifier(name), given, numbers)
                given[seen[name]] = name
        return cls(tuple(_renamed(tool, seen) for tool in tools), seen, given)

    def original(self, name: str) -> str:
        """The client's name for what the model called. A name of the model's own invention comes back as it is."""
        return self._given.get(name, name)

    def for_model(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The history with the model's names in its calls and results, those of tools no longer offered too."""
        return tuple(map(self._message, messages))

    def _message(self, message: Message) -> Message:
        calls = tuple(replace(call, name=self._name(call.name)) for call in message.tool_calls)
        return replace(message, tool_calls=calls, tool_name=message.tool_name and self._name(message.tool_name))

    def _name(self, name: str) -> str:
        return self._seen.get(name) or _identifier(name)


def _renamed(tool: JSON, names: Mapping[str, str]) -> JSON:
    name = name_of(tool)
    if name is None:
        return tool
    return {**tool, "function": {**cast(JSON, tool["function"]), "name": names[name]}}


def _identifier(name: str) -> str:
    """A TypeScript identifier like the name: `get-weather 2.0` → `get_weather_2_0`, `7zip` → `_7zip`."""
    if name in _KEPT_NAMES:
        return name
    kept = (char for char in name.translate(_SEPARATORS) if char.isalpha() or char.isdecimal() or char in "_$")
    identifier = "".join(kept) or "unnamed"
    return f"_{identifier}" if identifier[0].isdecimal() else identifier


def _unique(name: str, taken: Mapping[str, str], numbers: dict[str, Iterator[int]]) -> str:
    """`name`, `name_2`, `name_3`; each name's numbers go on from where they were."""
    if name not in taken:
        return name
    ahead = numbers.setdefault(name, count(2))
    return next(numbered for n in ahead if (numbered := f"{name}_{n}") not in taken)


# ---- the model's text ----


@dataclass(frozen=True, slots=True)
class _Header:
    """What came of a header, its markers with it."""

    text: str = ""


@dataclass(slots=True)
class _Call:
    """A tool call whose arguments are arriving."""

    name: str
    arguments: list[str] = field(default_factory=list)
    told: ToolCall | None = None
    """The call as far as it is told in parts, which begins with the brace of its arguments."""


_Body = _Call | type[Text] | type[Thinking]  # a body that is shown is known by the events it becomes
_Event = Text | Thinking | CallPart | ToolCalls


class HarmonyParser:
    """Makes events of the model's text, which may be cut into pieces anywhere.

    Text, reasoning and the arguments of calls go out as they come, save what could begin a marker; a call is told
    again, whole, when its message ends. Nothing the model writes is an error. `last` is the last message of the
    prompt: an assistant's is one that the model goes on with. A header that the prompt ends in besides can be fed
    first.
    """

    def __init__(
        self, names: ToolNames, last: Message | None = None, new_id: Callable[[], str] = new_call_id
    ) -> None:
        self._names = names
        self._new_id = new_id
        self._now: _Header | _Body = _continued(last)
        self._held = ""
        self._calls = 0
        self._lost = False

    @property
    def lost(self) -> bool:
        """Whether the model began a call that could not be read: cut off, or no JSON object."""
        return self._lost

    def feed(self, text: str) -> list[_Event]:
        """What is certain after this piece."""
        *pairs, tail = _MARKER.split(self._held + text)
        events: list[_Event] = []
        for before, marker in zip(pairs[::2], pairs[1::2], strict=True):
            events += self._on_text(before)
            events += self._on_marker(marker)
        certain = _certain(tail)
        events += self._on_text(tail[:certain])
        self._held = tail[certain:]
        return events

    def finish(self) -> list[_Event]:
        """What is left when the model has stopped."""
        held, self._held = self._held, ""
        return [*self._on_text(held), *self._end()]

    def _on_text(self, text: str) -> Iterator[_Event]:
        if not text:
            return
        match self._now:
            case _Header(header):
                room = max(0, HEADER_CHARS - len(header))
                self._now = _Header(header + text[:room])
                if len(text) > room and _is_headless(self._now.text):
                    self._now = Text
                    yield Text(header + text)
            case _Call() as call:
                yield from self._tell(call, text)
            case event:
                yield event(text)

    def _on_marker(self, marker: str) -> Iterator[_Event]:
        match marker, self._now:
            case "<|message|>", _Header(header):
                self._now = _body(header)
            case "<|channel|>" | "<|constrain|>", _Header(header):
                self._now = _Header(header + marker) if len(header) < HEADER_CHARS else self._now
            case "<|message|>" | "<|constrain|>", _:
                pass  # strays
            case _:
                yield from self._end()
                self._now = _Header(marker if marker in ("<|start|>", "<|channel|>") else "")

    def _end(self) -> Iterator[_Event]:
        """The message is over, with its end marker or without."""
        ended, self._now = self._now, _Header()
        match ended:
            case _Header(text) if _is_headless(text):
                yield Text(text)
            case _Header(text):
                self._lost |= isinstance(_body(text), _Call)
            case _Call():
                yield from self._called(ended)

    def _tell(self, call: _Call, text: str) -> Iterator[CallPart]:
        if not call.arguments:
            text = text.lstrip(_JSON_BLANKS)
            if text.startswith("{"):
                call.told = ToolCall(self._names.original(call.name), {}, self._new_id(), self._calls)
                self._calls += 1
                yield CallPart(call.told.index, id=call.told.id, name=call.told.name)
        if text:
            call.arguments.append(text)
            if call.told:
                yield CallPart(call.told.index, text)

    def _called(self, call: _Call) -> Iterator[ToolCalls]:
        try:
            arguments = msgspec.json.decode("".join(call.arguments), type=dict[str, object])
        except (ValueError, RecursionError):  # malformed, or nested without end
            self._lost = True
            return
        assert call.told, "an object begins with a brace"
        yield ToolCalls((replace(call.told, arguments=arguments),))


def _continued(last: Message | None) -> _Header | _Body:
    match last:
        case Message(role="assistant", content=content) if content:
            return Text
        case Message(role="assistant", thinking=thinking) if thinking:
            return Thinking
    return _Header()


def _body(header: str) -> _Body:
    """What follows this header. Whatever is neither reasoning nor a call is for the user to see."""
    channel = found[1] if (found := _CHANNEL.search(header)) else ""
    recipient = _RECIPIENT.search(header)
    if recipient and channel != "final" and (recipient[1] or recipient[2] not in _PARTICIPANTS):
        return _Call(recipient[2])
    return Thinking if channel == "analysis" else Text


def _is_headless(text: str) -> bool:
    """Whether this is no header but an answer without one, as gpt-oss writes when told to write JSON alone."""
    return bool(text.strip()) and not _MARKER.search(text) and not isinstance(_body(text), _Call)


def _certain(text: str) -> int:
    """The length of what no further text can make part of a marker."""
    start = text.rfind("<")
    could_begin = start >= 0 and any(marker.startswith(text[start:]) for marker in _MARKERS)
    return start if could_begin else len(text)
