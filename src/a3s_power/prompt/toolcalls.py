"""Finding the tool calls in a model's text, for templates that no parser was made for.

Behind a tag, every JSON object that names a tool is a call: the rules are those of Ollama's `tools/tools.go`, but
what was begun as a call never comes out as text, and one bad call does not hide the next.
"""

import re
import secrets
import string
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from a3s_power.generation import CallPart, Text, ToolCalls
from a3s_power.messages import ToolCall
from a3s_power.prompt.objects import Kind, Objects, Part
from a3s_power.prompt.tags import overlap

BARE_TAGS = ("{", "[")
"""Tags that are JSON themselves: a reply that begins with one of them holds calls, or is an answer in JSON."""

_ID_CHARS = string.ascii_lowercase + string.digits


def new_call_id() -> str:
    """`call_` and 8 random letters or digits, as Ollama makes them."""
    return "call_" + "".join(secrets.choice(_ID_CHARS) for _ in range(8))


def begun_call(head: str) -> str | None:
    """The name, if an object that begins with `head` and goes on with an object calls something.

    `{"name": "get_weather", "arguments": ` does, and nothing that follows changes it; None for any other.
    """
    value = _decoded(head + "null}")
    if isinstance(value, dict) and list(value) in _HEAD_KEYS and isinstance(value["name"], str):
        return value["name"]
    return None


# ---- what an object calls ----


class _Call(NamedTuple):
    name: str
    arguments: dict[str, object] | None
    """None if they are no object."""


_ARGUMENT_KEYS = ("arguments", "parameters")
_HEAD_KEYS = [["name", key] for key in _ARGUMENT_KEYS]
_CALL_BEGINNINGS = (
    '"name":"{name}"',
    '"{name}"',
    "{name}(",
    '"type":"function","name":"{name}"',
    '"type":"function","function":"{name}"',
    '"type":"function","function":{{"name":"{name}"',
    '"function":"{name}"',
    '"function":{{"name":"{name}"',
)
"""How calls begin, behind brackets and without blanks."""
_MISUSES = (
    r"""[:={"'`]\s*\\?["'`]NAME\\?["'`]""",  # {'name': 'get_weather'
    r"""["'`]NAME\\?["'`]\s*:""",  # "get_weather": {city
    r"""(?:name|function|tool)["'`]?\s*[:=]\s*NAME(?![\w-])""",  # {name: get_weather
    r"""[\[,]\s*NAME\(""",  # [get_weather(city="Paris")]
)
"""How calls look that are not JSON."""


class _Tools:
    """The tools that may be called, and how one tells from a text that they are."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        longest_first = sorted(self._names, key=len, reverse=True)
        name = rf"(?:{'|'.join(map(re.escape, longest_first)) or '(?!)'})"
        self._mention = re.compile(rf"(?<![\w-]){name}(?![\w-])", re.ASCII)
        self._misuse = re.compile("|".join(form.replace("NAME", name) for form in _MISUSES), re.ASCII)

    def calls(self, text: str, before: str) -> list[_Call]:
        """The calls that an object makes: by the names in it, else the tool that the text before it mentions."""
        value = _decoded(text)
        if not isinstance(value, dict):
            return []
        if calls := list(self._calls_in(value)):
            return calls
        if mention := self._mention.search(before):
            is_wrapped = "name" in value and any(key in value for key in _ARGUMENT_KEYS)
            return [_Call(mention[0], _arguments(value) if is_wrapped else value)]
        own = next(filter(None, (self._tool(word) for pair in value.items() for word in pair)), None)
        return [_Call(own, value)] if own else []

    def begun(self, head: str) -> str | None:
        """The tool that an object is certain to call, though of it no more than the head is there."""
        name = begun_call(head)
        return name if name in self._names else None

    def are_misused(self, text: str) -> bool:
        """Whether this is no JSON but calls one of them: `{'name': 'get_weather'}`, `[get_weather()]`."""
        return bool(self._misuse.search(text)) and _decoded(text) is None

    def begin(self, text: str) -> bool:
        """Whether a call of one of them could begin like this: `[{"name": "get_wea`."""
        written = "".join(text.split()).replace("'", '"').lstrip("[{")
        if any(form.format(name=name).startswith(written) for form in _CALL_BEGINNINGS for name in self._names):
            return True
        if any(written.startswith(f'"{key}":') for key in _ARGUMENT_KEYS):
            return True
        _, key, last = written.rpartition('"name":"')
        return bool(key) and any(name.startswith(last) for name in self._names)

    def _calls_in(self, value: object) -> Iterator[_Call]:
        """Depth first, in order; not inside a call."""
        ahead = [value]
        while ahead:
            match ahead.pop():
                case dict() as found:
                    calls = self._named(found) or self._keyed(found)
                    yield from calls
                    if not calls:
                        ahead.extend(reversed(found.values()))
                case list() as found:
                    ahead.extend(reversed(found))

    def _named(self, value: dict[str, object]) -> list[_Call]:
        """`{"name": "get_weather", "arguments": {…}}`; with arguments any other key will do for the name."""
        name = self._tool(value.get("name"))
        if name is None and any(key in value for key in _ARGUMENT_KEYS):
            name = next(filter(None, map(self._tool, value.values())), None)
        return [_Call(name, _arguments(value))] if name else []

    def _keyed(self, value: dict[str, object]) -> list[_Call]:
        """`{"get_weather": {…}}`"""
        calls = (_Call(key, _object(each)) for key, each in value.items() if key in self._names)
        return [call for call in calls if call.arguments is not None]

    def _tool(self, value: object) -> str | None:
        """The tool of that name. Some models put one of theirs before it: `functions.get_weather`."""
        if not isinstance(value, str):
            return None
        prefix, _, last = value.rpartition(".")
        name = last if prefix.isidentifier() and value not in self._names else value
        return name if name in self._names else None


def _arguments(value: dict[str, object]) -> dict[str, object] | None:
    return _object(next((value[key] for key in _ARGUMENT_KEYS if value.get(key) is not None), None))


def _object(value: object) -> dict[str, object] | None:
    """The object that a value is or, being a string, holds. Nothing at all is an empty one."""
    if value in (None, "", "null"):
        return {}
    if isinstance(value, str):
        value = _decoded(value)
    return value if isinstance(value, dict) else None


def _decoded(text: str) -> object:
    """None if it cannot be read."""
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None


# ---- the model's text ----


class _State(Enum):
    LOOKING = auto()
    """For the tag."""
    UNDECIDED = auto()
    """The reply begins as JSON: calls or an answer."""
    CALLING = auto()
    """What is no call is dropped."""
    ANSWER = auto()
    """There will be no calls."""


class ToolCallParser:
    """Makes Text, CallPart and ToolCalls of a model's text, which may be cut into pieces anywhere.

    `tag` is what calls begin with, `names` are the tools that may be called. Text before the tag goes out as it
    comes; what surrounds calls, closing tags too, is dropped. A call of the usual shape is told in parts once its
    arguments begin, any other when its object is complete. What was told stays told: of two names, or two sets of
    arguments, the first counts. With a bare tag only a reply that begins as JSON can hold calls. It is held back
    until its first value is complete, or a call has begun, and comes out whole if that holds no call, nor anything
    like a failed one.
    """

    def __init__(self, tag: str, names: Collection[str], new_id: Callable[[], str] = new_call_id) -> None:
        self._tag = tag
        self._is_bare = tag in BARE_TAGS
        self._tools = _Tools(names)
        self._new_id = new_id
        self._state = _State.LOOKING
        self._held: list[str] = []  # what will be text if no call is found
        self._depth = 0  # of the brackets in what is held
        self._objects = Objects("" if self._is_bare else tag)
        self._between: list[str] = []  # what came after the last object
        self._open: ToolCall | None = None  # a call that is told in parts,
        self._arguments: list[str] = []  # and what was told of it
        self._count = 0
        self._lost = False

    @property
    def lost(self) -> bool:
        """Whether the model began a call that could not be read: cut off, malformed, or of no known tool."""
        return self._lost

    def feed(self, text: str) -> list[Text | CallPart | ToolCalls]:
        """What is certain after this piece."""
        return list(self._feed(text))

    def finish(self) -> list[Text | CallPart | ToolCalls]:
        """What was held back, when the model has stopped."""
        rest = "".join(self._held) + self._objects.take()
        match self._state:
            case _State.CALLING:
                has_begun = not self._is_bare and self._tag in "".join(self._between)
                self._lost |= bool(rest) or has_begun
                return []
            case _State.UNDECIDED if self._tools.are_misused(rest) or self._tools.begin(rest):
                self._lost = True
                return []
        return [Text(rest)] if rest else []

    def _feed(self, text: str) -> Iterator[Text | CallPart | ToolCalls]:
        match self._state:
            case _State.LOOKING:
                before, after = self._look_for_json(text) if self._is_bare else self._look_for_tag(text)
                if before:
                    yield Text(before)
                yield from self._parse(after)
            case _State.ANSWER:
                if text:
                    yield Text(text)
            case _:
                yield from self._parse(text)

    def _parse(self, text: str) -> Iterator[Text | CallPart | ToolCalls]:
        parts = self._objects.feed(text)
        for part in parts:
            if part.is_preview:
                yield from self._tell(part)
                continue
            calls = self._read(part)
            if self._state is _State.UNDECIDED:
                self._decide(part, calls)
            if self._state is _State.CALLING:
                yield from self._emit(part, calls)
            elif self._state is _State.ANSWER:
                later = (part.text for part in parts if not part.is_preview)
                yield Text("".join([*self._held, *later, self._objects.take()]))
                self._held.clear()

    def _look_for_tag(self, text: str) -> tuple[str, str]:
        """What is certainly text, and what follows the tag."""
        before, tag, after = ("".join(self._held) + text).partition(self._tag)
        self._held.clear()
        if tag:
            self._state = _State.CALLING
            self._between.append(tag)
            return before, after
        certain = len(before) - overlap(before, self._tag)
        self._held.append(before[certain:])
        return before[:certain], ""

    def _look_for_json(self, text: str) -> tuple[str, str]:
        """What is certainly text, and what may be calls."""
        reply = text.lstrip()
        if not reply:
            return text, ""
        if not reply.startswith(BARE_TAGS):
            self._state = _State.ANSWER
            return text, ""
        self._state = _State.UNDECIDED
        return text[: len(text) - len(reply)], reply

    def _read(self, part: Part) -> list[_Call]:
        if part.kind is not Kind.OBJECT:
            self._between.append(part.text)
            return []
        before = "".join(self._between)
        self._between.clear()
        if not self._is_bare:
            self._lost |= before.count(self._tag) > 1
            before = before.rpartition(self._tag)[2]
        if "{" in before:  # inside a broken object, where a name may be anything's
            before = ""
        return self._tools.calls(part.text, before)

    def _decide(self, part: Part, calls: list[_Call]) -> None:
        self._held.append(part.text)
        if calls or (part.kind is not Kind.BETWEEN and self._tools.are_misused(part.text)):
            self._state = _State.CALLING
        elif self._is_complete(part):
            self._lost = self._tools.are_misused("".join(self._held))
            self._state = _State.CALLING if self._lost else _State.ANSWER
        if self._state is _State.CALLING:
            self._held.clear()

    def _is_complete(self, part: Part) -> bool:
        """Whether the value that the reply begins with ends in this part. Objects are balanced in themselves."""
        if part.kind is Kind.OBJECT:
            return self._depth == 0
        for bracket in re.findall(r"[][{}]", part.text):
            self._depth += 1 if bracket in "{[" else -1
            if not self._depth:
                return True
        return False

    def _tell(self, part: Part) -> Iterator[CallPart]:
        """What an object that is still open is certain to call."""
        if part.kind is Kind.HEAD and (name := self._tools.begun(part.text)):
            self._state = _State.CALLING
            self._held.clear()
            self._open = self._new_call(name)
            yield CallPart(self._open.index, id=self._open.id, name=name)
        elif part.kind is Kind.INNER and self._open:
            self._arguments.append(part.text)
            yield CallPart(self._open.index, part.text)

    def _emit(self, part: Part, calls: list[_Call]) -> Iterator[ToolCalls]:
        self._lost |= part.kind is not Kind.BETWEEN and not calls
        if self._open and calls:
            calls = [_Call(self._open.name, _object("".join(self._arguments)))]
        for name, arguments in calls:
            if arguments is None:
                self._lost = True
                continue
            yield ToolCalls((replace(self._open or self._new_call(name), arguments=arguments),))
        self._open = None
        self._arguments.clear()

    def _new_call(self, name: str) -> ToolCall:
        self._count += 1
        return ToolCall(name, {}, self._new_id(), self._count - 1)
