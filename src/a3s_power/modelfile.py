"""Modelfiles: the text that describes a model, to commands and back.

The grammar is Ollama's (`parser/parser.go`), oddities included: there are
no escapes, a comment stands only where a command could, and unprintable characters vanish from values.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from a3s_power.errors import InvalidModelfile
from a3s_power.options import KINDS

MAX_SIZE = 32 * 2**20
"""Bytes, or characters of a text that is decoded already."""

COMMANDS = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
    "requires",
)  # fmt: skip
ROLES = ("system", "user", "assistant")
DEPRECATED_PARAMETERS = frozenset({
    "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "mirostat", "mirostat_tau",
    "mirostat_eta",
})  # fmt: skip

_NOT_PARAMETERS = {"model", *COMMANDS} - {"from", "parameter"}
"""Names of commands. `PARAMETER system x` is one too, in Ollama's parser."""
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"  # a number, or a word
_SEMVER = re.compile(
    rf"v?({_NUMBER}(\.{_NUMBER}(\.{_NUMBER}(-{_PRERELEASE}(\.{_PRERELEASE})*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?)?)?)"
)
_FLOAT32_END = 2.0**128 - 2.0**103  # what would round to infinity begins here
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_BLANKS = " \t\r\n"
_BETWEEN_COMMANDS = re.compile(r"(?:[ \t\r\n]++|#[^\r\n]*+)*+")
_COMMAND = re.compile(r".[A-Za-z]*", re.DOTALL)  # whatever comes first is the name's first character
_PARAMETER = re.compile(r"\w*", re.ASCII)
_ROLE = re.compile(r"[A-Za-z]*")
_LINE = re.compile(r"[^\r\n]+")
_LINE_END = re.compile(r"[\r\n]|\Z")


@dataclass(frozen=True, slots=True)
class Command:
    """One line of a Modelfile.

    `name` is in lower case; that of FROM is `model`, that of a PARAMETER is the parameter's, as it was written.
    The `args` of a MESSAGE are `<role>: <content>`.
    """

    name: str
    args: str


def parse(data: bytes | str) -> tuple[Command, ...]:
    """Read a Modelfile; raises InvalidModelfile, with the line where that helps.

    A byte order mark chooses between UTF-8 and UTF-16; bytes that are neither become U+FFFD. Takes time linear in
    the size, which is at most MAX_SIZE.
    """
    if len(data) > MAX_SIZE:
        raise InvalidModelfile(f"the Modelfile is too large: {len(data)} bytes, at most {MAX_SIZE} are read")
    commands = tuple(_Parser(data if isinstance(data, str) else _decode(data)).commands())
    if not any(command.name == "model" for command in commands):
        raise InvalidModelfile("no FROM line")
    return commands


def serialise(commands: Iterable[Command]) -> str:
    """The text of a Modelfile, one command a line, quoted as `show --modelfile` quotes.

    Reads back as the same commands, as far as the grammar can say them at all: three quotes at the end of a line
    within a text would close it. Ollama quotes less, and reads back less.
    """
    return "".join(f"{_line(command)}\n" for command in commands)


def _line(command: Command) -> str:
    match command.name:
        case "model":
            return f"FROM {command.args}"
        case "message":
            role, _, content = command.args.partition(": ")
            return f"MESSAGE {role} {_quote(content)}"
        case name if name in _NOT_PARAMETERS:
            return f"{name.upper()} {_quote(command.args)}"
    return f"PARAMETER {command.name} {_quote(command.args)}"


def _quote(text: str) -> str:
    if text == text.strip(_BLANKS) and not text.startswith('"') and "\n" not in text and "\r" not in text:
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def _decode(data: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.decode("utf-8", "replace")


class _Parser:
    """One pass over a text. Everything it looks for, it looks for from `pos` on."""

    def __init__(self, text: str) -> None:
        self.text = text.removeprefix("\ufeff")
        self.pos = 0
        self.unprintable = _unprintable(self.text)

    def commands(self) -> Iterator[Command]:
        while name := self._command_name():
            match name:
                case "from":
                    name = "model"
                case "parameter":
                    name = self._word(_PARAMETER)
                case "message":
                    role = self._role()
                    yield Command(name, f"{role}: {self._value()}")
                    continue
            yield Command(name, self._value())

    def _command_name(self) -> str:
        """The next command in lower case; empty at the end."""
        self._take(_BETWEEN_COMMANDS)
        if self.pos == len(self.text):
            return ""
        name = self._clean(self._take(_COMMAND)).lower()
        if self.pos == len(self.text):
            raise InvalidModelfile("unexpected EOF")
        if not self._skip_blank() or name not in COMMANDS:
            raise self._expected("command", COMMANDS)
        return name

    def _role(self) -> str:
        role = self._word(_ROLE)
        if role not in ROLES:
            raise self._expected("message role", ROLES)
        return role

    def _word(self, pattern: re.Pattern[str]) -> str:
        """A parameter's name or a role, and the blank after it."""
        word = self._take(pattern)
        if self._skip_blank():
            return word
        at_end = self.pos > len(self.text)
        raise InvalidModelfile("unexpected EOF" if at_end else f"unexpected EOF: {word}")

    def _value(self) -> str:
        """The rest of the line, or of more lines where a quote stays open."""
        start, self.pos = self.pos, self._find_line_end(self.pos)
        first = self._clean(self.text[start : self.pos]).strip(_BLANKS)
        quote = '"""' if first.startswith('"""') else '"' if first.startswith('"') else ""
        is_closed = first.endswith(quote) and len(first) >= 2 * len(quote)
        if not is_closed:
            self.pos = self._find_closing_line(quote)
        value = self._clean(self.text[start : self.pos]).strip(_BLANKS)
        return value[len(quote) : len(value) - len(quote)]

    def _find_closing_line(self, quote: str) -> int:
        """Where the first line after this one ends that ends in `quote`: a quote closes at line ends only."""
        for line in _LINE.finditer(self.text, self.pos):
            if self._clean(line[0]).rstrip(_BLANKS).endswith(quote):
                return line.end()
        raise InvalidModelfile("unexpected EOF")

    def _find_line_end(self, pos: int) -> int:
        end = _LINE_END.search(self.text, pos)
        assert end, "every text has an end"
        return end.start()

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.pos)
        assert found, "each pattern matches where it is used"
        self.pos = found.end()
        return found[0]

    def _skip_blank(self) -> bool:
        """Go past the next character; whether it is the blank that has to stand there."""
        self.pos += 1
        return self.text[self.pos - 1 : self.pos] in (" ", "\t")

    def _clean(self, text: str) -> str:
        return self.unprintable.sub("", text) if self.unprintable else text

    def _expected(self, what: str, words: Sequence[str]) -> InvalidModelfile:
        """A complaint about the character just read; a line break counts as part of the next line."""
        line = 1 + sum(self.text.count(end, 0, self.pos) for end in "\r\n")
        quoted = [f'"{word}"' for word in words]
        return InvalidModelfile(f"(line {line}): {what} must be one of {', '.join(quoted[:-1])}, or {quoted[-1]}")


def _unprintable(text: str) -> re.Pattern[str] | None:
    """What of `text` Go's `strconv.IsPrint` rejects, line ends and tabs aside; None if nothing.

    Unassigned characters are kept: which ones these are depends on the Unicode version, and Go's may be newer.
    """
    suspects = (char for char in set(text) if not char.isprintable() and char not in _BLANKS)
    rejected = "".join(char for char in suspects if unicodedata.category(char) != "Cn")
    return re.compile(f"[{re.escape(rejected)}]+") if rejected else None


# ---- what the commands say ----


@dataclass(frozen=True, slots=True)
class Description:
    """A Modelfile's commands by kind. Names of models and files are as they were written."""

    models: tuple[str, ...]
    adapters: tuple[str, ...]
    """The last one only: it replaces those before it."""
    drafts: tuple[str, ...]
    licenses: tuple[str, ...]
    messages: tuple[tuple[str, str], ...]
    """Role and content."""
    parameters: "Parameters"
    template: str | None
    system: str | None
    renderer: str | None
    parser: str | None
    requires: str | None
    """A semantic version, without a `v` before it."""


def describe(commands: Iterable[Command]) -> Description:
    """Sort the commands. Raises InvalidModelfile for a parameter or a version that makes no sense."""
    values: dict[str, list[str]] = {}
    parameters = []
    for command in commands:
        if command.name in _NOT_PARAMETERS:
            values.setdefault(command.name, []).append(command.args)
        else:
            parameters.append((command.name, [command.args]))

    def last(name: str) -> str | None:
        return values.get(name, [None])[-1]

    version = last("requires")
    return Description(
        models=tuple(values.get("model", ())),
        adapters=tuple(values.get("adapter", ())[-1:]),
        drafts=tuple(values.get("draft", ())),
        licenses=tuple(values.get("license", ())),
        messages=tuple(_role_and_content(text) for text in values.get("message", ())),
        parameters=parse_parameters(parameters),
        template=last("template"),
        system=last("system"),
        renderer=last("renderer"),
        parser=last("parser"),
        requires=None if version is None else _version(version),
    )


def _role_and_content(text: str) -> tuple[str, str]:
    role, _, content = text.partition(": ")
    return role, content


def _version(text: str) -> str:
    if not (found := _SEMVER.fullmatch(text)):
        raise InvalidModelfile("requires must be a valid semver (e.g. 0.14.0)")
    return found[1]


# ---- PARAMETER values ----


@dataclass(frozen=True, slots=True)
class Parameters:
    """The typed values of PARAMETER lines, JSON values all, and what to tell the user about them."""

    values: Mapping[str, object]
    warnings: Sequence[str] = ()


def parse_parameters(texts: Iterable[tuple[str, Sequence[str]]]) -> Parameters:
    """Type the values of each named parameter. A name may come again: lists (`stop`) grow, others are replaced.

    Of several values for what is no list the first counts. Deprecated parameters are dropped with a warning.
    Raises InvalidModelfile: `invalid float value [hot]`.
    """
    values: dict[str, object] = {}
    warnings = []
    for name, given in texts:
        if name in DEPRECATED_PARAMETERS:
            warnings.append(f"warning: parameter {name} is deprecated")
            continue
        value = _typed(name, given)
        if isinstance(value, list):
            value = [*cast("list[str]", values.get(name, [])), *value]
        values[name] = value
    return Parameters(values, warnings)


def _typed(name: str, given: Sequence[str]) -> object:
    kind = KINDS.get(name)
    if kind is None:
        raise InvalidModelfile(f"unknown parameter '{name}'")
    if kind is tuple:
        return list(given)
    try:
        return _READERS[kind](given[0])
    except (ValueError, KeyError) as exc:
        raise InvalidModelfile(f"invalid {kind.__name__} value [{' '.join(given)}]") from exc


def _int(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not -(2**63) <= int(text) < 2**63:
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float:
    """One that a float32 can hold, which is what engines take."""
    is_number = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text)
    if not is_number or abs(float(text)) >= _FLOAT32_END:
        raise ValueError(text)
    return float(text)


_BOOLS = dict.fromkeys(["1", "t", "T", "TRUE", "true", "True"], True) | dict.fromkeys(
    ["0", "f", "F", "FALSE", "false", "False"], False
)
_READERS: dict[type, Callable[[str], object]] = {int: _int, float: _float, bool: _BOOLS.__getitem__}
