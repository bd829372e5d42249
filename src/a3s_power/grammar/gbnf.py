"""GBNF, the grammars that llama.cpp samples by: how they are spelled, and JSON's own rules.

The language is described in llama.cpp's `grammars/README.md`; its limits were read from `llama-grammar.cpp`. The
engine follows a grammar with a set of stacks, one for each way in which the text so far can be read, so every rule
here is written to leave few ways: what alternatives have in common stands before them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from a3s_power.errors import InvalidRequest

MAX_GRAMMAR_CHARS = 512 * 1024
"""The engine parses such a grammar in under 50 ms; a copy repeated by `{m,n}` counts as eight characters."""
MAX_EFFORT = 300_000
"""Steps of reading a schema and of building its automata: some 0.2 s."""
MAX_REPEAT = 1999
"""The engine refuses `{m,n}` from 2000 on."""
MAX_CODE_POINT = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]
"""A set of characters: code points from and to, both inclusive, in order and apart from each other."""

TEXT: Ranges = ((0, 0xD7FF), (0xE000, MAX_CODE_POINT))
"""All of Unicode but the halves of surrogate pairs, which no valid UTF-8 holds."""

JSON_RULES = r"""
ws ::= ( " " | "\n"{1,2} [ \t]{0,20} )?
hex ::= [0-9a-fA-F]
char ::= [\x20-\x21\x23-\x5B\x5D-\x7E\u0080-\uD7FF\uE000-\U0010FFFF] | "\\" ( ["\\/bfnrt] | "u" unit )
unit ::= [0-9a-cefA-CEF] hex{3} | [dD] [0-7] hex{2}
string ::= "\"" char* "\""
integer ::= "-"? ( "0" | [1-9] [0-9]{0,14} )
number ::= integer ( "." [0-9]{1,15} )? ( [eE] [-+]? [0-9]{1,2} )?
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
array ::= "[" ws ( "]" | value elements )
elements ::= "," ws value elements | ws "]"
object ::= "{" ws ( "}" | member members )
members ::= "," ws member members | ws "}"
member ::= string ":" ws value
"""
"""White space, digits and exponents are bounded, or a small model loops in them. `\\u` never writes half a
surrogate pair, so that one `char` is one code point, as `maxLength` counts. No space stands before `:` and `,`."""


@dataclass(frozen=True, slots=True)
class ThinkingFrame:
    """How a model that thinks first marks it."""

    opening: str
    """`<think>`"""
    closing: str
    """`</think>`"""
    answer: str = ""
    """What stands before the answer when the model did not think (harmony: `<|channel|>final<|message|>`)."""
    is_inside: bool = False
    """The prompt has opened it already."""


def unfit(reason: str) -> InvalidRequest:
    """The error for a format that cannot be obeyed; it says what and where."""
    return InvalidRequest(f"invalid format: {reason}")


class Grammar:
    """Rules in the making; those of `JSON_RULES` are always there. A body that was given before keeps its name."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._chars = 0
        self._effort = 0

    def define(self, body: str, hint: str = "r") -> str:
        """The name of the rule with that body."""
        if body not in self._names:
            name = self._names[body] = self.reserve(hint)
            self.fill(name, body)
        return self._names[body]

    def reserve(self, hint: str) -> str:
        """A new name, `hint-7`, for a rule that others refer to before it has a body. Letters and digits only."""
        name = f"{hint}-{len(self._bodies)}"
        self._bodies[name] = ""
        return name

    def fill(self, name: str, body: str) -> None:
        """Give a reserved name its body."""
        self._bodies[name] = body
        self._grow(len(name) + len(body))

    def repeat(self, item: str, low: int, high: int | None) -> str:
        """`item{low,high}` for the name of a rule; None means without end. Counts up to MAX_REPEAT."""
        self._grow(8 * (low if high is None else high))
        if high is None:
            return f"{item}*" if low == 0 else f"{item}{{{low},}}"
        return f"{item}{{{low},{high}}}" if high else '""'

    def spend(self, steps: int) -> None:
        """Count work that grows faster than its input. Raises InvalidRequest when it is too much."""
        self._effort += steps
        if self._effort > MAX_EFFORT:
            raise unfit("the schema is too complex; simpler patterns, fewer alternatives may help")

    def text(self, root: str) -> str:
        """The whole grammar, where `root` is the body of the rule to begin with."""
        rules = (f"{name} ::= {body}\n" for name, body in self._bodies.items())
        return "".join([f"root ::= {root}", JSON_RULES, *rules])

    def _grow(self, chars: int) -> None:
        self._chars += chars
        if self._chars > MAX_GRAMMAR_CHARS:
            raise unfit("the schema is too large: its grammar exceeds 512 KiB")


def literal(text: str) -> str:
    """A quoted literal of a text without lone surrogates."""
    return '"' + "".join(_LITERAL_ESCAPES.get(char, char) for char in text) + '"'


_LITERAL_ESCAPES = {chr(code): f"\\x{code:02X}" for code in (*range(0x20), 0x7F)} | {'"': '\\"', "\\": "\\\\"}


def char_class(ranges: Ranges) -> str:
    """`[a-z0-9]`."""
    return "[" + "".join(_point(lo) if lo == hi else f"{_point(lo)}-{_point(hi)}" for lo, hi in ranges) + "]"


def _point(code: int) -> str:
    if code < 0x80:
        return chr(code) if chr(code).isalnum() else f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def any_of(bodies: Iterable[str]) -> str:
    """Alternatives, each once."""
    return " | ".join(dict.fromkeys(bodies))


def complement(ranges: Ranges, within: Ranges = TEXT) -> Ranges:
    """The characters of `within` that are not in `ranges`."""
    kept: list[tuple[int, int]] = []
    for lo, hi in within:
        for low, high in ranges:
            if low <= hi and high >= lo:
                if low > lo:
                    kept.append((lo, low - 1))
                lo = high + 1
        if lo <= hi:
            kept.append((lo, hi))
    return tuple(kept)


def union(points: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges in any order, overlapping or not, as one set."""
    merged: list[tuple[int, int]] = []
    for lo, hi in sorted(points):
        if merged and lo <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(hi, merged[-1][1]))
        else:
            merged.append((lo, hi))
    return tuple(merged)


def chars(text: str) -> Ranges:
    """The set of a text's characters."""
    return union((ord(char), ord(char)) for char in text)
