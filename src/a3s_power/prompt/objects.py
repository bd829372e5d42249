"""Cutting a stream of text at the JSON objects in it."""

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple


class Kind(Enum):
    BETWEEN = auto()
    """Text outside objects."""
    OBJECT = auto()
    """From a brace to the one that closes it. It may still not parse."""
    BROKEN = auto()
    """From a brace up to what cannot follow in JSON."""
    HEAD = auto()
    """What an open object has before the first object in it, if no list comes first."""
    INNER = auto()
    """A piece of that first object in it, as it comes."""


class Part(NamedTuple):
    kind: Kind
    text: str

    @property
    def is_preview(self) -> bool:
        """Whether its text comes again, in the OBJECT or BROKEN that it is part of."""
        return self.kind in (Kind.HEAD, Kind.INNER)


class _Inner(Enum):
    """Where the text is, seen from the first object in the one that is open."""

    BEFORE = auto()
    INSIDE = auto()
    BEHIND = auto()
    """Or there will be none."""


_IN_OBJECT = re.compile(r'(?P<word>[-+.\w]+)|(?P<mark>[][{}:,"])|(?P<alien>\S)', re.ASCII)
_IN_STRING = re.compile(r'["\x00-\x1f]|\\.?', re.DOTALL)
_WORD = re.compile(r"t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?|-|-?\d[-+.\deE]*", re.ASCII)
"""How words begin that are JSON: arguments are told before it is known how they end."""
_OPENING = {"}": "{", "]": "["}
_MAY_STAND_BEHIND = {  # w is a word, ; the comma of a list
    "{": ":;[",
    "[": ":;[",
    '"': ":;[,{",
    "word": ":;[w",  # a number, true, false, null; behind itself where a piece ended
    ":": '"',
    ",": '"w}]',
    "}": '"w}]{',
    "]": '"w}][',
}
"""What may stand in an object behind what. Not all of JSON, but enough to see that a brace or a quote was
forgotten when the text goes on, so that one bad call does not swallow all others."""


class Objects:
    """Cuts a stream into objects and what is between them.

    A string whose closing quote was forgotten may have swallowed a `tag`: what follows the last one in a broken
    object is read again. No character is read a third time.
    """

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._pieces: list[str] = []  # of the object that is open
        self._brackets: list[str] = []  # that are open in it
        self._last = ""  # mark in it, as in the table
        self._word = ""  # if that is one
        self._is_string = False
        self._is_escape = False  # a piece ended behind a backslash
        self._inner = _Inner.BEFORE
        self._untold = 0  # where in the piece that is what has not been told of the first object

    def feed(self, text: str) -> Iterator[Part]:
        """The parts that end in this piece. Text between objects may come in several; so does INNER."""
        start = at = self._untold = 0
        while at < len(text):
            if self._brackets:
                at, ended = self._step(text, at)
                if self._inner is not _Inner.BEHIND:
                    yield from self._look_inside(text, start, at, is_over=ended is not None)
                if ended:
                    done, start = self.take() + text[start:at], at
                    yield from self._part(ended, done)
                    self._untold = at
                continue
            brace = text.find("{", at)
            if brace < 0:
                break
            if brace > start:
                yield Part(Kind.BETWEEN, text[start:brace])
            start, at = brace, brace + 1
            self._brackets.append("{")
            self._last, self._is_string, self._is_escape, self._inner = "{", False, False, _Inner.BEFORE
        if self._brackets:
            self._pieces.append(text[start:])
            if self._inner is _Inner.INSIDE and text[self._untold :]:
                yield Part(Kind.INNER, text[self._untold :])
        elif text[start:]:
            yield Part(Kind.BETWEEN, text[start:])

    def take(self) -> str:
        """The open object, which is given up."""
        taken = "".join(self._pieces)
        self._pieces.clear()
        self._brackets.clear()
        return taken

    def _look_inside(self, text: str, start: int, at: int, *, is_over: bool) -> Iterator[Part]:
        """What a step to `at` settles of the first object in the open one, which began at `start` or before."""
        depth = len(self._brackets)
        if self._inner is _Inner.BEFORE and depth > 1:
            self._untold = at - 1
            self._inner = _Inner.INSIDE if text[self._untold] == "{" else _Inner.BEHIND
            if self._inner is _Inner.INSIDE:
                yield Part(Kind.HEAD, "".join(self._pieces) + text[start : self._untold])
        elif self._inner is _Inner.INSIDE and (is_over or depth == 1):
            self._inner = _Inner.BEHIND
            if text[self._untold : at]:
                yield Part(Kind.INNER, text[self._untold : at])

    def _part(self, kind: Kind, text: str) -> Iterator[Part]:
        if kind is Kind.BROKEN and self._tag and self._tag in text:
            broken, tag, again = text.rpartition(self._tag)
            yield Part(Kind.BROKEN, broken + tag)
            yield from self.feed(again)
        else:
            yield Part(kind, text)

    def _step(self, text: str, at: int) -> tuple[int, Kind | None]:
        """To behind the next mark in the open object, and what is over there."""
        if self._is_escape:
            self._is_escape = False
            return at + 1, None
        found = (_IN_STRING if self._is_string else _IN_OBJECT).search(text, at)
        if found is None:
            return len(text), None
        return self._step_in_string(found) if self._is_string else self._step_in_object(found)

    def _step_in_string(self, found: re.Match[str]) -> tuple[int, Kind | None]:
        self._is_string = found[0] != '"'
        self._is_escape = found[0] == "\\"
        if found[0] < " ":
            return found.start(), Kind.BROKEN
        return found.end(), None

    def _step_in_object(self, found: re.Match[str]) -> tuple[int, Kind | None]:
        kind = "word" if found["word"] else found[0]
        if self._last not in _MAY_STAND_BEHIND.get(kind, ()):
            return found.start(), Kind.BROKEN
        if kind == "word":
            self._word = (self._word if self._last == "w" else "") + found[0]
            if not _WORD.fullmatch(self._word):
                return found.start(), Kind.BROKEN
        if kind in "{[":
            self._brackets.append(kind)
        elif kind in _OPENING and self._brackets.pop() != _OPENING[kind]:
            return found.start(), Kind.BROKEN
        self._last = ";" if kind == "," and self._brackets[-1] == "[" else kind[0]
        self._is_string = kind == '"'
        return found.end(), None if self._brackets else Kind.OBJECT
