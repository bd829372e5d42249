"""JSON as Go's `encoding/json` reads and writes it, at msgspec's speed where the two agree.

A request is a `GoStruct`. `decode` tries msgspec first; whatever msgspec refuses is read again as Go would
read it, and is either accepted after all (folded keys, unknown keys, trailing data, bad UTF-8, nulls) or
refused in Go's words. Nothing that msgspec accepts may mean something else to Go, so shapes are checked at
their first use, with TypeError for one that breaks the contract:

- every struct, nested ones too, derives from GoStruct, which refuses unknown keys on the fast path;
- no field is required, and one that may be None has the default None: `null` is the same as absent;
- annotations are built of str, bool, float, `Int`, list, dict[str, …], GoStruct and Any, each `| None`;
  a plain int has no bounds and Go's has, so it is `Int`, or one with `Meta(ge=…, le=…)` of its own;
- `Meta(extra={"go": "api.ImageData"})` says what an error calls a type; by default that is what Go would
  call it: `string`, `[]api.Message`, `map[string]interface {}`.

Anything is accepted for Any, its integers kept as int however large. `msgspec.Raw` is no alternative to it:
with `| None`, msgspec lets it take nothing but null.
"""

import math
import re
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta
from msgspec import inspect as mi

from a3s_power.wire.goscan import GoJSONError, Node, Object, nests_too_deep, scan

__all__ = ["GoJSONError", "GoStruct", "Int", "decode", "encode"]

T = TypeVar("T")

Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""Go's int. A number out of its range, or written `3.0` or `1e2`, is refused."""


class GoStruct(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every request struct. Its name and package stand in error messages: `api.ChatRequest`."""

    go_package: ClassVar[str] = "api"


def decode(body: bytes, shape: type[T], /) -> T:
    """The first JSON value of `body` as a `shape`; raises GoJSONError, for an empty body with `EOF`."""
    decoder: msgspec.json.Decoder[T]
    kind, decoder = _prepared(shape)  # type: ignore[arg-type]  # mypy doubts that a class can be hashed
    if not nests_too_deep(body):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return decoder.decode(body)
    value: T = _decode_as_go(body, kind)
    return value


def encode(value: object) -> bytes:
    """Compact JSON, byte for byte as Go writes it; keys keep their order, NaN and infinity become null."""
    text = msgspec.json.encode(value)
    for char, escape in _HTML_ESCAPES:
        text = text.replace(char, escape)
    return _STRING_OR_FLOAT.sub(_as_go, text) if _FOREIGN_FLOAT.search(text) else text


class _Mismatch(Exception):
    """A value that does not fit its type: raised where it is, worded where the whole path is known."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(found, wanted)
        self.found, self.wanted = found, wanted
        self.path: list[str] = []  # innermost first
        self.struct = ""

    def __str__(self) -> str:
        field = ".".join([self.struct, *reversed(self.path)])
        target = f"struct field {field}" if self.path else "value"
        return f"json: cannot unmarshal {self.found} into Go {target} of type {self.wanted}"


def _decode_as_go(body: bytes, kind: mi.Type) -> Any:
    try:
        return _bind(kind, scan(body))
    except _Mismatch as exc:
        raise GoJSONError(str(exc)) from None
    except RecursionError:  # a struct that contains itself, some hundred levels deep
        raise GoJSONError("exceeded max depth") from None


def _bind(kind: mi.Type, node: Node) -> Any:
    match _core(kind), node:
        case _, None:
            return _zero(kind)
        case mi.AnyType(), _:
            return _plain(node)
        case (mi.StrType(), str()) | (mi.BoolType(), bool()):
            return node
        case mi.IntType(ge=int(low), le=int(high)), bytes():
            return _int(node, low, high, kind)
        case mi.FloatType(), bytes():
            return _float(node, kind)
        case mi.ListType(item_type=item), list():
            return [_bind(item, child) for child in node]
        case mi.DictType(value_type=item), Object():
            return {key: _bind(item, child) for key, child in node.members}
        case mi.StructType(cls=cls), Object():
            return _bind_struct(cls, node)
    raise _Mismatch(_kind_of(node), _go_type(kind))


def _bind_struct(cls: type[msgspec.Struct], node: Object) -> msgspec.Struct:
    exact, folded = _fields(cls)
    values: dict[str, Any] = {}
    for key, child in node.members:
        field = exact.get(key) or folded.get(_fold(key))
        if field is None:
            continue
        if child is None:
            values.pop(field.name, None)
            continue
        try:
            values[field.name] = _bind(field.type, child)
        except _Mismatch as exc:
            exc.path.append(field.encode_name)
            exc.struct = cls.__name__
            raise
    return cls(**values)


def _int(literal: bytes, low: int, high: int, kind: mi.Type) -> int:
    if len(literal) <= len("-9223372036854775808") and literal.lstrip(b"-").isdigit():
        value = int(literal)
        if low <= value <= high:
            return value
    raise _Mismatch(f"number {literal.decode()}", _go_type(kind))


def _float(literal: bytes, kind: mi.Type) -> float:
    value = float(literal)
    if math.isinf(value):
        raise _Mismatch(f"number {literal.decode()}", _go_type(kind))
    return value


def _plain(node: Node) -> Any:
    """What Any gets. A loop: values of Any nest as deep as the client likes."""
    root = [node]
    pending: list[list[Any] | dict[str, Any]] = [root]
    while pending:
        container = pending.pop()
        items: Any = enumerate(container) if isinstance(container, list) else list(container.items())
        for key, child in items:
            match child:
                case bytes():
                    container[key] = _number(child)
                case Object():
                    container[key] = dict(child.members)
                    pending.append(container[key])
                case list():
                    pending.append(child)
    return root[0]


def _number(literal: bytes) -> int | float:
    value = _float(literal, mi.FloatType())
    return int(literal) if literal.lstrip(b"-").isdigit() else value


_GO_TYPES: dict[type[mi.Type], tuple[str, Callable[[], object]]] = {
    mi.StrType: ("string", str),
    mi.BoolType: ("bool", bool),
    mi.IntType: ("int", int),
    mi.FloatType: ("float64", float),
}
"""What Go calls a type, and what makes its zero value."""


def _zero(kind: mi.Type) -> object:
    """What null leaves where a Go value cannot be absent: `[null]` as a list of strings is `[""]`."""
    match kind:
        case mi.Metadata(type=inner):
            return _zero(inner)
        case mi.StructType(cls=cls):
            return cls()
        case mi.ListType():
            return []
        case mi.DictType():
            return {}
    return _GO_TYPES[type(kind)][1]() if type(kind) in _GO_TYPES else None


def _kind_of(node: Node) -> str:
    match node:
        case bool():
            return "bool"
        case str():
            return "string"
        case bytes():
            return "number"
        case list():
            return "array"
    return "object"


def _go_type(kind: mi.Type) -> str:
    match kind:
        case mi.Metadata(extra={"go": str(name)}):
            return name
        case mi.Metadata(type=inner):
            return _go_type(inner)
        case mi.UnionType(types=(inner, mi.NoneType()) | (mi.NoneType(), inner)):
            return _go_type(inner)
        case mi.ListType(item_type=item):
            return f"[]{_go_type(item)}"
        case mi.DictType(value_type=item):
            return f"map[string]{_go_type(item)}"
        case mi.StructType(cls=cls) if issubclass(cls, GoStruct):
            return f"{cls.go_package}.{cls.__name__}"
        case mi.AnyType():
            return "interface {}"
    return _GO_TYPES[type(kind)][0]


def _core(kind: mi.Type) -> mi.Type:
    """The type without its metadata and without `| None`; a true union stays one."""
    match kind:
        case mi.Metadata(type=inner):
            return _core(inner)
        case mi.UnionType(types=(inner, mi.NoneType()) | (mi.NoneType(), inner)):
            return _core(inner)
    return kind


@cache
def _prepared(shape: Any) -> tuple[mi.Type, msgspec.json.Decoder[Any]]:
    kind = mi.type_info(shape)
    _check(kind, set())
    return kind, msgspec.json.Decoder(shape)


def _check(kind: mi.Type, seen: set[type]) -> None:
    """TypeError for a type of which msgspec accepts more, or something else, than Go does."""
    match _core(kind):
        case mi.AnyType() | mi.StrType() | mi.BoolType() | mi.FloatType() | mi.IntType(ge=int(), le=int()):
            pass
        case mi.ListType(item_type=item) | mi.DictType(key_type=mi.StrType(), value_type=item):
            _check(item, seen)
        case mi.StructType(cls=cls, fields=fields) if issubclass(cls, GoStruct):
            if cls in seen:
                return
            seen.add(cls)
            for field in fields:
                if field.required or (isinstance(field.type, mi.UnionType) and field.default is not None):
                    raise TypeError(f"{cls.__name__}.{field.name}: absent and null must mean the same")
                _check(field.type, seen)
        case other:
            raise TypeError(f"{other}: Go reads it in another way than msgspec does; see {__name__}")


@cache
def _fields(cls: type[msgspec.Struct]) -> tuple[dict[str, mi.Field], dict[str, mi.Field]]:
    """The fields by JSON name, as it is and folded; of two that fold alike the first counts."""
    struct = mi.type_info(cls)
    assert isinstance(struct, mi.StructType)
    exact = {field.encode_name: field for field in struct.fields}
    return exact, {_fold(name): field for name, field in reversed(exact.items())}


def _fold(name: str) -> str:
    """Lower case, but of one rune for one: `str.casefold` would make `ß` equal to `ss`, and Go does not."""
    return name.replace("\u017f", "s").lower()


_HTML_ESCAPES = (
    (b"<", rb"\u003c"),
    (b">", rb"\u003e"),
    (b"&", rb"\u0026"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)
_FOREIGN_FLOAT = re.compile(rb"[.e](?:(?<=[0-9]\.)0(?![0-9])|(?<=[0-9]e)-?[0-9])")
"""Marks what msgspec writes and Go does not, `1.0` and `1e16`, and much inside strings: a quick first look."""

_STRING_OR_FLOAT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?[0-9]+(?:\.0(?![0-9])|(?:\.[0-9]+)?e-?[0-9]+)')


def _as_go(token: re.Match[bytes]) -> bytes:
    text = token.group()
    return text if text.startswith(b'"') else _format_float(float(text)).encode()


def _format_float(value: float) -> str:
    """Shortest digits that read back the same; with an exponent below 1e-6 and from 1e21 on."""
    if value != 0 and not 1e-6 <= abs(value) < 1e21:
        return repr(value).replace("e-0", "e-")
    return format(Decimal(repr(value)).normalize(), "f")
