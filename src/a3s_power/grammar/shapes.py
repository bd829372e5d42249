"""What a JSON schema asks of a value, keyword by keyword, and how two askings become one."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from a3s_power.grammar.gbnf import unfit
from a3s_power.grammar.ranges import Range

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


@dataclass(frozen=True, slots=True)
class Subschema:
    """A schema and its place, `$.properties.tags`.

    `trail` holds the identities of the schemas that led here by `$ref`, `allOf` or `anyOf`, all for one value: to
    meet one of them again is to go round in a circle.
    """

    node: Any
    where: str
    trail: frozenset[int] = frozenset()


Schemas = tuple[Subschema, ...]
"""Schemas for one value, which must satisfy all of them; none at all is any value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one value has to be, without alternatives between schemas. None: nothing is said."""

    where: str
    types: tuple[str, ...] | None = None
    hints: frozenset[str] = frozenset()
    """The types that the other keywords speak of: what is meant where no type is given."""
    values: tuple[Any, ...] | None = None
    numbers: Range = field(default_factory=Range)
    min_length: int = 0
    max_length: int | None = None
    pattern: str | None = None
    format: str | None = None
    prefix: tuple[Schemas, ...] = ()
    items: Schemas | None = None
    min_items: int | None = None
    max_items: int | None = None
    properties: Mapping[str, Schemas] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    additional: Schemas | None = None
    min_properties: int = 0
    max_properties: int | None = None


def meet(shapes: Sequence[Shape], where: str) -> Shape | None:
    """The shape of values that have all of these shapes; None if their types or values contradict each other.

    Raises InvalidRequest for what we cannot make one of, such as two patterns.
    """
    first, *others = shapes or (Shape(where=where),)
    whole: Shape | None = first
    for shape in others:
        if whole is not None:
            whole = _meet(whole, shape)
    return whole if whole is None or whole.types != () else None


def _meet(one: Shape, other: Shape) -> Shape | None:
    types, values = common_types(one.types, other.types), _common_values(one.values, other.values)
    if types == () or values == ():
        return None
    return Shape(
        where=one.where,
        types=types,
        hints=one.hints | other.hints,
        values=values,
        numbers=one.numbers.meet(other.numbers),
        min_length=max(one.min_length, other.min_length),
        max_length=_least(one.max_length, other.max_length),
        pattern=_only("pattern", one, other),
        format=one.format or other.format,
        prefix=_only_items(one, other).prefix,
        items=_only_items(one, other).items,
        min_items=max((n for n in (one.min_items, other.min_items) if n is not None), default=None),
        max_items=_least(one.max_items, other.max_items),
        properties=_all_properties(one, other),
        required=tuple(dict.fromkeys(one.required + other.required)),
        additional=_both(one.additional, other.additional),
        min_properties=max(one.min_properties, other.min_properties),
        max_properties=_least(one.max_properties, other.max_properties),
    )


def common_types(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The types in both, in the order of the first; an integer is a number."""
    if one is None or other is None:
        return one or other
    kept = []
    for name in one:
        if name in other or (name == "integer" and "number" in other):
            kept.append(name)
        elif name == "number" and "integer" in other:
            kept.append("integer")
    return tuple(kept)


def type_of(value: Any) -> str:
    """The JSON type of a value; a whole number is an integer, however it is written."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def canonical(value: Any) -> Hashable:
    """A key that is equal for equal JSON: 1 is 1.0 and not true, the order of members does not count."""
    match value:
        case bool():
            return "boolean", value
        case list():
            return "array", tuple(map(canonical, value))
        case dict():
            return "object", frozenset((key, canonical(inner)) for key, inner in value.items())
    return "scalar", value


def _common_values(one: tuple[Any, ...] | None, other: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    known = set(map(canonical, other))
    return tuple(value for value in one if canonical(value) in known)


def _least(one: int | None, other: int | None) -> int | None:
    return min((n for n in (one, other) if n is not None), default=None)


def _only(name: str, one: Shape, other: Shape) -> Any:
    mine, theirs = getattr(one, name), getattr(other, name)
    if mine is not None and theirs is not None and mine != theirs:
        raise unfit(f'"{name}" at {other.where} cannot be combined with another one for the same value')
    return theirs if mine is None else mine


def _only_items(one: Shape, other: Shape) -> Shape:
    """The one that says what is in an array. Two that speak of every item alike can be combined."""
    if not one.prefix and one.items is None:
        return other
    if not other.prefix and other.items is None:
        return one
    if one.prefix or other.prefix:
        raise unfit(f'"prefixItems" at {other.where} cannot be combined with another schema for the same items')
    return replace(one, items=_both(one.items, other.items))


def _both(one: Schemas | None, other: Schemas | None) -> Schemas | None:
    if one is None or other is None:
        return other if one is None else one
    return (*one, *(schema for schema in other if schema not in one))


def _all_properties(one: Shape, other: Shape) -> Mapping[str, Schemas]:
    """Each property under the schemas of both; to the one that does not know it, it is an additional one."""
    names = dict.fromkeys((*one.properties, *other.properties))
    return {
        name: _both(one.properties.get(name, one.additional), other.properties.get(name, other.additional)) or ()
        for name in names
    }
