"""The functions a Go template may call: text/template's own and the four that Ollama adds.

After Go's `text/template/funcs.go` and `fmt`. `and` and `or` are missing here: they do not evaluate all of
their arguments, so they are part of the language (`goexec.py`). A string is indexed, measured and sliced by bytes.
"""

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from functools import reduce
from typing import NamedTuple
from urllib.parse import quote_plus

from a3s_power.prompt.goprintf import CallFailed, go_type, printf
from a3s_power.prompt.govalues import NO_VALUE, Struct, is_true, json_text, show


class Function(NamedTuple):
    """How many arguments a function takes, and what it does. `most` None: any number."""

    least: int
    most: int | None
    run: Callable[..., object]


def functions(today: date) -> Mapping[str, Function]:
    """Every function by its name in a template. Ollama's two dates ignore the format they are given."""
    yesterday = today - timedelta(days=1)
    return {
        **FUNCTIONS,
        "currentDate": Function(0, None, lambda *_: today.isoformat()),
        "yesterdayDate": Function(0, None, lambda *_: yesterday.isoformat()),
    }


def _eq(first: object, *others: object) -> bool:
    return any(_same(first, other) for other in others)


def _same(left: object, right: object) -> bool:
    if left is None or right is None:
        return left is right
    if go_type(left) != go_type(right):
        raise CallFailed("incompatible types for comparison")
    if isinstance(left, list | tuple | Mapping):
        raise CallFailed("non-comparable types")
    return left == right


def _less(left: object, right: object) -> bool:
    if not all(isinstance(value, int | float | str | bool | complex) for value in (left, right)):
        raise CallFailed("invalid type for comparison")
    if go_type(left) != go_type(right):
        raise CallFailed("incompatible types for comparison")
    if isinstance(left, bool | complex):
        raise CallFailed("invalid type for comparison")
    return left < right  # type: ignore[no-any-return, operator]  # both are int, float or str


def _less_or_equal(left: object, right: object) -> bool:
    return _less(left, right) or _same(left, right)


def _len(value: object) -> int:
    match value:
        case str():
            return len(_utf8(value))
        case list() | tuple() | Mapping() | bytes():
            return len(value)
        case None:
            raise CallFailed("len of nil pointer")
    raise CallFailed(f"len of type {go_type(value)}")


def _index(value: object, *keys: object) -> object:
    return reduce(_index_one, keys, value)


def _index_one(value: object, key: object) -> object:
    match value:
        case Mapping():
            if not isinstance(key, str):
                raise CallFailed(f"value has type {go_type(key)}; should be string")
            return value.get(key)
        case list() | tuple() | str() | bytes():
            items = _utf8(value) if isinstance(value, str) else value
            at = _position(key, len(items))
            if at == len(items):
                raise CallFailed(f"index out of range: {at}")
            return items[at]
    raise CallFailed("index of untyped nil" if value is None else f"can't index item of type {go_type(value)}")


def _slice(value: object, *bounds: object) -> object:
    if not isinstance(value, list | tuple | str | bytes):
        raise CallFailed("slice of untyped nil" if value is None else f"can't slice item of type {go_type(value)}")
    if isinstance(value, str) and len(bounds) == 3:
        raise CallFailed("cannot 3-index slice a string")
    items = _utf8(value) if isinstance(value, str) else value
    given = [_position(bound, len(items)) for bound in bounds]
    start, stop, most = given + [0, len(items), len(items)][len(given) :]
    if not start <= stop <= most:
        raise CallFailed(f"invalid slice index: {start} > {stop}")
    part = items[start:stop]
    return part.decode("utf-8", "replace") if isinstance(value, str) and isinstance(part, bytes) else part


def _position(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CallFailed(f"cannot index slice/array with type {go_type(value)}")
    if not 0 <= value <= most:
        raise CallFailed(f"index out of range: {value}")
    return value


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _print(*values: object) -> str:
    """Go's Sprint: a space between two neighbours when neither is a string."""
    text = ""
    for i, value in enumerate(values):
        apart = i and not isinstance(value, str) and not isinstance(values[i - 1], str)
        text += " " + show(value) if apart else show(value)
    return text


def _println(*values: object) -> str:
    return " ".join(map(show, values)) + "\n"


_HTML = str.maketrans({"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"})
_JS = str.maketrans(
    {chr(code): f"\\u{code:04X}" for code in (*range(32), 0x2028, 0x2029, *map(ord, "<>&="))}
    | {character: "\\" + character for character in "\\'\""}
)


def _text(*values: object) -> str:
    """What html, js and urlquery escape."""
    return show(values[0], nil=NO_VALUE) if len(values) == 1 else _print(*values)


def _call(function: object, *_arguments: object) -> object:
    raise CallFailed("call of nil" if function is None else f"non-function of type {go_type(function)}")


_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def _to_typescript_type(value: object) -> str:
    if not isinstance(value, Struct) or value.type_name != "ToolProperty":
        raise CallFailed(f"wrong type for value; expected ToolProperty; got {go_type(value)}")
    any_of, types = value.fields["AnyOf"], value.fields["Type"]
    assert isinstance(any_of, list)
    assert isinstance(types, list)
    if any_of:
        return " | ".join(map(_to_typescript_type, any_of))
    return " | ".join(_TYPESCRIPT.get(name, "any") for name in types) or "any"


FUNCTIONS: Mapping[str, Function] = {
    "call": Function(1, None, _call),
    "eq": Function(2, None, _eq),
    "ge": Function(2, 2, lambda left, right: not _less(left, right)),
    "gt": Function(2, 2, lambda left, right: not _less_or_equal(left, right)),
    "html": Function(0, None, lambda *values: _text(*values).translate(_HTML)),
    "index": Function(1, None, _index),
    "js": Function(0, None, lambda *values: _text(*values).translate(_JS)),
    "le": Function(2, 2, _less_or_equal),
    "len": Function(1, 1, _len),
    "lt": Function(2, 2, _less),
    "ne": Function(2, 2, lambda left, right: not _same(left, right)),
    "not": Function(1, 1, lambda value: not is_true(value)),
    "print": Function(0, None, _print),
    "printf": Function(1, None, printf),
    "println": Function(0, None, _println),
    "slice": Function(1, 4, _slice),
    "urlquery": Function(0, None, lambda *values: quote_plus(_utf8(_text(*values)))),
    "json": Function(1, 1, json_text),
    "toTypeScriptType": Function(1, 1, _to_typescript_type),
}
"""All but the two that need to know what day it is."""

NAMES = frozenset({"and", "or", "currentDate", "yesterdayDate", *FUNCTIONS})
"""What a template may call at all."""
