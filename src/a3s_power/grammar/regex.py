"""Regular expressions as trees: the part of ECMAScript's language that describes a set of texts, nothing more."""

import re
from dataclasses import dataclass

from a3s_power.grammar.gbnf import TEXT, Ranges, chars, complement, union

MAX_DEPTH = 32
"""Groups inside groups; the parser is as deep as they are."""
MAX_COUNT = 4000
"""The largest number in a quantifier."""

START: Ranges = ((0x110000, 0x110000),)
END: Ranges = ((0x110001, 0x110001),)
"""`^` and `$`: characters that stand around every text and in none."""


class Unsupported(Exception):
    """The expression is not one, or says what we cannot follow. The message goes on from "the pattern"."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Chain:
    """One after the other."""

    nodes: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several."""

    nodes: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """From `low` to `high` times; None means without end."""

    node: "Node"
    low: int
    high: int | None


Node = Chars | Chain | Choice | Repeat

DIGIT: Ranges = chars("0123456789")
WORD: Ranges = union([*DIGIT, (65, 90), (95, 95), (97, 122)])
SPACE: Ranges = union(
    [(0x09, 0x0D), *chars(" \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"), (0x2000, 0x200A)]
)
DOT: Ranges = complement(chars("\n\r\u2028\u2029"))

SETS = {
    "d": DIGIT, "D": complement(DIGIT),
    "w": WORD, "W": complement(WORD),
    "s": SPACE, "S": complement(SPACE),
}  # fmt: skip
CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
COUNTS = {"*": (0, None), "+": (1, None), "?": (0, 1)}

_COUNT = re.compile(r"\{(\d{1,9})(?:(,)(\d{1,9})?)?\}", re.ASCII)
_HEX = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_NAMED_GROUP = re.compile(r"\?P?<[A-Za-z_]\w*>", re.ASCII)


def parse(pattern: str) -> Node:
    """The tree of an expression. Raises Unsupported."""
    return _Parser(pattern).whole()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._choice()
        if self._at < len(self._pattern):
            raise Unsupported('has a ")" too many')
        return node

    def _choice(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unsupported("has too many groups inside each other")
        nodes = [self._chain()]
        while self._take("|"):
            nodes.append(self._chain())
        self._depth -= 1
        return nodes[0] if len(nodes) == 1 else Choice(tuple(nodes))

    def _chain(self) -> Node:
        nodes: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            nodes.append(self._quantified(self._atom()))
        return Chain(tuple(nodes))

    def _quantified(self, node: Node) -> Node:
        if (counts := self._counts()) is None:
            return node
        self._take("?")  # a lazy quantifier describes the same texts
        low, high = counts
        if high is not None and high < low:
            raise Unsupported("has a quantifier out of order")
        if max(low, high or 0) > MAX_COUNT:
            raise Unsupported(f"repeats more than {MAX_COUNT} times")
        return Repeat(node, low, high)

    def _counts(self) -> tuple[int, int | None] | None:
        if self._peek() in COUNTS:
            return COUNTS[self._next()]
        if not (found := _COUNT.match(self._pattern, self._at)):
            return None
        self._at = found.end()
        low, comma, high = found.groups()
        if not comma:
            return int(low), int(low)
        return int(low), int(high) if high else None

    def _atom(self) -> Node:
        match self._next():
            case "(":
                return self._group()
            case "[":
                return Chars(self._class())
            case "\\":
                return Chars(self._escape())
            case ".":
                return Chars(DOT)
            case "^":
                return Chars(START)
            case "$":
                return Chars(END)
            case "*" | "+" | "?":
                raise Unsupported("has a quantifier with nothing to repeat")
            case char:
                return Chars(chars(char))

    def _group(self) -> Node:
        if not self._take("?:"):
            if found := _NAMED_GROUP.match(self._pattern, self._at):
                self._at = found.end()
            elif self._peek() == "?":
                raise Unsupported(f'has "({self._pattern[self._at : self._at + 2]}"')
        node = self._choice()
        if not self._take(")"):
            raise Unsupported('lacks a ")"')
        return node

    def _class(self) -> Ranges:
        is_negated = self._take("^")
        if self._peek() == "]":
            raise Unsupported("has an empty class")
        points: list[tuple[int, int]] = []
        while not self._take("]"):
            points.extend(self._class_item())
        ranges = union(points)
        return complement(ranges) if is_negated else ranges

    def _class_item(self) -> Ranges:
        low = self._class_chars()
        if self._peek() != "-" or self._pattern[self._at + 1 : self._at + 2] in ("]", ""):
            return low
        self._next()
        high = self._class_chars()
        if not _is_single(low) or not _is_single(high) or low[0][0] > high[0][0]:
            raise Unsupported("has a range out of order in a class")
        return ((low[0][0], high[0][0]),)

    def _class_chars(self) -> Ranges:
        if self._take("\\"):
            return chars("\b") if self._take("b") else self._escape()
        if not (char := self._next()):
            raise Unsupported('lacks a "]"')
        return chars(char)

    def _escape(self) -> Ranges:
        if found := _HEX.match(self._pattern, self._at):
            self._at = found.end()
            return _one(int(found[found.lastindex or 0], 16))
        char = self._next()
        if char in SETS:
            return SETS[char]
        if char in CONTROLS:
            return chars(CONTROLS[char])
        if not char or char.isalnum():
            raise Unsupported(f'has "\\{char}"')
        return chars(char)

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def _take(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found


def _one(code: int) -> Ranges:
    if not any(lo <= code <= hi for lo, hi in TEXT):
        raise Unsupported("names half a surrogate pair, or no character at all")
    return ((code, code),)


def _is_single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
