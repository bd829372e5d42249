"""Go's `fmt.Sprintf` as far as templates need it: the verbs v s d q x t c f e g, flags, width and precision.

Explicit argument indexes (`%[1]s`) are not understood. A wrong use is written into the text, as Go does.
"""

import json
import re
from collections.abc import Mapping

from a3s_power.prompt.govalues import Struct, show

MAX_PADDING = 1 << 16
"""Widths and precisions of one call, all together."""


class CallFailed(Exception):
    """A function does not take these arguments. The evaluator catches it."""


_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>[0-9]{1,9}|\*)?(?P<dot>\.(?P<precision>[0-9]{1,9}|\*)?)?(?P<verb>.|$)",
    re.DOTALL,
)


def printf(pattern: object, *values: object) -> str:
    """`printf("%s: %d", "a", 1)` is `a: 1`. Raises CallFailed."""
    if not isinstance(pattern, str):
        raise CallFailed(f"wrong type for value; expected string; got {go_type(pattern)}")
    arguments = _Arguments(values)
    text = _VERB.sub(lambda found: _directive(found, arguments), pattern)
    if rest := arguments.rest():
        text += "%!(EXTRA " + ", ".join(f"{go_type(value)}={show(value)}" for value in rest) + ")"
    return text


def go_type(value: object) -> str:
    """What Go would call the type of a value."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "bool"
        case str():
            return "string"
        case int():
            return "int"
        case float():
            return "float64"
        case complex():
            return "complex128"
        case Struct():
            return value.type_name
        case Mapping():
            return "map[string]interface {}"
        case bytes():
            return "[]uint8"
    return "[]interface {}"


class _Arguments:
    """The values that wait for a verb or a `*`, and what padding was asked for so far."""

    def __init__(self, values: tuple[object, ...]) -> None:
        self._values = values
        self._next = 0
        self._padding = 0

    def __bool__(self) -> bool:
        return self._next < len(self._values)

    def take(self) -> object:
        self._next += 1
        return self._values[self._next - 1]

    def rest(self) -> tuple[object, ...]:
        return self._values[self._next :]

    def number(self, text: str | None) -> int | None:
        """A width or precision: digits, or `*` for the next value."""
        number = (self.take() if self else None) if text == "*" else int(text) if text else None
        if not isinstance(number, int):
            return None
        self._padding += abs(number)
        if self._padding > MAX_PADDING:
            raise CallFailed(f"more than {MAX_PADDING} columns")
        return number


def _directive(found: re.Match[str], arguments: _Arguments) -> str:
    flags, verb = found["flags"], found["verb"]
    if verb in ("%", ""):
        return "%" if verb else "%!(NOVERB)"
    width = arguments.number(found["width"])
    precision = arguments.number(found["precision"])
    if found["dot"] and not found["precision"]:
        precision = 0
    if not arguments:
        return f"%!{verb}(MISSING)"
    value = arguments.take()
    text = _format(verb, flags, precision, value)
    if text is None:
        return f"%!{verb}({go_type(value)}={show(value)})" if value is not None else f"%!{verb}(<nil>)"
    return _pad(text, flags, width or 0, zeros=isinstance(value, int | float))


def _format(verb: str, flags: str, precision: int | None, value: object) -> str | None:
    """The value without padding; None if the verb does not suit it."""
    match verb, value:
        case "v", _:
            return show(value)
        case "t", bool():
            return show(value)
        case (("s" | "q" | "x" | "X"), None | bool()):
            return None
        case (("d" | "x" | "X" | "c"), int()) if not isinstance(value, bool):
            return _format_int(verb, flags, value)
        case (("f" | "F" | "e" | "E" | "g" | "G"), float()):
            return _format_float(verb, flags, precision, value)
        case (("s" | "q" | "x" | "X"), _) if not isinstance(value, int | float):
            text = show(value)[:precision]
            if verb == "s":
                return text
            if verb == "q":
                return json.dumps(text, ensure_ascii=False)
            return text.encode("utf-8", "replace").hex() if verb == "x" else text.encode().hex().upper()
    return None


def _format_int(verb: str, flags: str, value: int) -> str:
    if verb == "c":
        return chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value <= 0xDFFF else "\ufffd"
    return format(value, ("+" if "+" in flags else "") + verb)


def _format_float(verb: str, flags: str, precision: int | None, value: float) -> str:
    if verb in "gG" and precision is None:
        return show(value)
    return format(value, f"{'+' if '+' in flags else ''}.{6 if precision is None else precision}{verb}")


def _pad(text: str, flags: str, width: int, *, zeros: bool) -> str:
    if "-" in flags or width < 0:
        return text.ljust(abs(width))
    if "0" in flags and zeros:
        return text.zfill(width)
    return text.rjust(width)
