"""Reads JSON as the scanner of Go's `encoding/json` does: its rules, its words for what is wrong.

Linear in the size of the body and without recursion: hundreds of MB/s for long strings, but about 2 MB/s
for a hostile body that is all punctuation, so large bodies belong in a thread. Source of the facts: Go 1.26,
`scanner.go` and `decode.go`. One thing differs: nesting ends at 1000 levels where Go allows 10000, because
Python code that walks the result later does recurse.
"""

import json
import re
from dataclasses import dataclass
from itertools import accumulate
from typing import NoReturn, TypeAlias

MAX_DEPTH = 1000


class GoJSONError(ValueError):
    """A body that Go's decoder refuses, in Go's words: `unexpected EOF`; `EOF` when there is no value."""


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object as written: members in order, a repeated key as often as it came."""

    members: list[tuple[str, "Node"]]


Node: TypeAlias = "bool | str | bytes | list[Node] | Object | None"
"""A JSON value. Bytes are a number as written (`1e2`): whether it fits is for its reader to say."""

_WS = r"[ \t\n\r]*+"
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'  # all but the end quote
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++|(?!\.))(?:[eE][+-]?[0-9]++|(?![eE]))"
_WORDS: dict[bytes, Node] = {b"true": True, b"false": False, b"null": None}
_VALUE = re.compile(
    f'{_WS}(?:(?P<string>{_STRING}")|(?P<number>{_NUMBER})'
    r"|(?P<word>true|false|null)|(?P<open>[\[{]))".encode()
)
_KEY = re.compile(f'{_WS}({_STRING}")'.encode())
_UNENDED_STRING = re.compile(_STRING.encode())
_UNENDED_NUMBER = re.compile(rb"-?(?:(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+)?+")
_HEX_DIGITS = re.compile(rb"[0-9a-fA-F]*+")
_NEXT = re.compile(f"{_WS}(.?)".encode(), re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def scan(body: bytes) -> Node:
    """The first JSON value of `body`; what comes after it is not looked at. Raises GoJSONError."""
    opened: list[list[Node] | Object] = []
    keys: list[str] = []  # of the member that each opened object is at
    pos = 0
    while True:
        token = _VALUE.match(body, pos) or _reject_value(body, pos)
        pos = token.end()
        node = _begin(token)
        if token.lastgroup == "open":
            assert isinstance(node, (list, Object))
            if len(opened) == MAX_DEPTH:
                _reject(body, pos - 1, "exceeded max depth")
            after = _next(body, pos)
            if after[1] != _closer(node):
                opened.append(node)
                if isinstance(node, Object):
                    pos = _read_key(body, pos, keys)
                continue
            pos = after.end()
        while opened:  # `node` is complete: it joins its parent, and may complete it
            parent = opened[-1]
            if isinstance(parent, Object):
                parent.members.append((keys.pop(), node))
            else:
                parent.append(node)
            after = _next(body, pos)
            pos = after.end()
            if after[1] == b",":
                if isinstance(parent, Object):
                    pos = _read_key(body, pos, keys)
                break
            if after[1] != _closer(parent):
                ended = "object key:value pair" if isinstance(parent, Object) else "array element"
                _reject(body, after.start(1), f"after {ended}")
            node = opened.pop()
        else:
            return node


def nests_too_deep(body: bytes) -> bool:
    """Whether valid JSON nests deeper than `scan` allows; cheap. Of invalid JSON it says nothing."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    outside_strings = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    brackets = b"".join(outside_strings).translate(None, _ALL_BUT_BRACKETS)
    return max(accumulate(1 if char in b"[{" else -1 for char in brackets), default=0) > MAX_DEPTH


def _begin(token: re.Match[bytes]) -> Node:
    """The value that a token is, or the empty container that it opens."""
    match token.lastgroup:
        case "string":
            return _text(token["string"])
        case "number":
            return token["number"]
        case "word":
            return _WORDS[token["word"]]
    return Object([]) if token["open"] == b"{" else []


def _text(literal: bytes) -> str:
    """The text of a string literal. Each bad byte and each lone surrogate becomes U+FFFD, as in Go."""
    source = literal.decode("utf-8", "surrogateescape")
    text: str = json.loads(source) if "\\" in source else source[1:-1]
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _read_key(body: bytes, pos: int, keys: list[str]) -> int:
    """Push the key that begins at `pos` and return where its value may begin."""
    key = _KEY.match(body, pos)
    if key is None:
        pos = _next(body, pos).start(1)
        if body[pos : pos + 1] == b'"':
            _reject_string(body, pos)
        _reject(body, pos, "looking for beginning of object key string")
    keys.append(_text(key[1]))
    colon = _next(body, key.end())
    if colon[1] != b":":
        _reject(body, colon.start(1), "after object key")
    return colon.end()


def _next(body: bytes, pos: int) -> re.Match[bytes]:
    """Group 1 is the next byte that is not white space, empty at the end of the body."""
    found = _NEXT.match(body, pos)
    assert found, "the pattern matches anything"
    return found


def _closer(node: list[Node] | Object) -> bytes:
    return b"}" if isinstance(node, Object) else b"]"


def _end(sound: re.Pattern[bytes], body: bytes, start: int) -> int:
    """Where the sound part of a bad token ends."""
    found = sound.match(body, start)
    return found.end() if found else start


def _reject_value(body: bytes, pos: int) -> NoReturn:
    """Say why no value begins at `pos`."""
    start = _next(body, pos).start(1)
    match body[start : start + 1]:
        case b'"':
            _reject_string(body, start)
        case b"t" | b"f" | b"n" as initial:
            _reject_word(body, start, next(word for word in _WORDS if word.startswith(initial)))
        case b"-" | b"0" | b"1" | b"2" | b"3" | b"4" | b"5" | b"6" | b"7" | b"8" | b"9":
            _reject_number(body, start)
    _reject(body, start, "looking for beginning of value")


def _reject_string(body: bytes, start: int) -> NoReturn:
    pos = _end(_UNENDED_STRING, body, start)
    if body[pos : pos + 1] != b"\\":
        _reject(body, pos, "in string literal")
    if body[pos + 1 : pos + 2] != b"u":
        _reject(body, pos + 1, "in string escape code")
    _reject(body, _end(_HEX_DIGITS, body, pos + 2), r"in \u hexadecimal character escape")


def _reject_word(body: bytes, start: int, word: bytes) -> NoReturn:
    matched = next(n for n in range(len(word)) if body[start + n : start + n + 1] != word[n : n + 1])
    expected = chr(word[matched])
    _reject(body, start + matched, f"in literal {word.decode()} (expecting '{expected}')")


def _reject_number(body: bytes, start: int) -> NoReturn:
    pos = _end(_UNENDED_NUMBER, body, start)
    if body[start:pos] == b"-":
        _reject(body, pos, "in numeric literal")
    if body[pos : pos + 1] == b".":
        _reject(body, pos + 1, "after decimal point in numeric literal")
    signed = body[pos + 1 : pos + 2] in (b"+", b"-")
    _reject(body, pos + 1 + signed, "in exponent of numeric literal")


def _reject(body: bytes, pos: int, context: str) -> NoReturn:
    """Refuse the byte at `pos`, or the body for ending there."""
    if pos < len(body):
        raise GoJSONError(f"invalid character {_quote(body[pos])} {context}")
    raise GoJSONError("unexpected EOF" if body.strip(b" \t\n\r") else "EOF")


_QUOTED = {"'": r"\'", '"': '"', "\\": r"\\"} | dict(
    zip("\a\b\f\n\r\t\v", (r"\a", r"\b", r"\f", r"\n", r"\r", r"\t", r"\v"), strict=True)
)


def _quote(byte: int) -> str:
    """One byte as Go prints it: a Latin-1 character in single quotes, however many bytes UTF-8 gave it."""
    char = chr(byte)
    if char in _QUOTED:
        return f"'{_QUOTED[char]}'"
    if char.isprintable():
        return f"'{char}'"
    return f"'\\x{byte:02x}'" if byte < 0x80 else f"'\\u{byte:04x}'"
