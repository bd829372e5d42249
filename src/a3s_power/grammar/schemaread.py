"""A JSON schema from a client, read with care: its size, its references, the values of its keywords.

Understood are drafts 7 to 2020-12 as pydantic, zod and OpenAI's users write them, and OpenAPI's `nullable`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from a3s_power.grammar.gbnf import unfit
from a3s_power.grammar.ranges import Bound, Range
from a3s_power.grammar.shapes import TYPES, Schemas, Shape, Subschema, canonical, common_types

MAX_DEPTH = 100
"""JSON inside JSON. One schema inside another takes two levels; nobody writes thirty of those."""
MAX_NODES = 50_000
"""Values in the whole schema, which takes some 20 ms to walk through."""
MAX_CHARS = 512 * 1024
"""In all keys and strings."""
MAX_VALUES = 2000
"""In one `enum`; OpenAI allows 1000 in a whole schema."""
MAX_TRAIL = 64
"""References that lead to each other without a value in between."""

REFUSED: Mapping[str, tuple[Any, ...]] = {
    "$dynamicRef": (),
    "$recursiveRef": (),
    "contains": (),
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "else": (),
    "if": (),
    "maxContains": (),
    "minContains": (),
    "not": (False,),
    "patternProperties": ({},),
    "propertyNames": ({}, True),
    "then": (),
    "unevaluatedItems": ({}, True),
    "unevaluatedProperties": ({}, True),
    "uniqueItems": (False,),
}
"""Assertions that no grammar of ours can keep, and the values with which they ask for nothing. Keywords that are
neither here nor read below assert nothing that is known, and are ignored as the standard says."""

HINTS = {
    "minimum": "number", "maximum": "number", "exclusiveMinimum": "number", "exclusiveMaximum": "number",
    "multipleOf": "number",
    "minLength": "string", "maxLength": "string", "pattern": "string", "format": "string",
    "items": "array", "prefixItems": "array", "minItems": "array", "maxItems": "array",
    "properties": "object", "required": "object", "additionalProperties": "object",
    "minProperties": "object", "maxProperties": "object",
}  # fmt: skip
"""Keyword → the type it speaks of."""


def check_size(schema: Any) -> None:
    """Raise InvalidRequest for a schema that is too large, or is not made of JSON."""
    nodes, text, level = 0, 0, [schema]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for node in level:
            match node:
                case dict():
                    inner.extend((*node.keys(), *node.values()))
                case list():
                    inner.extend(node)
                case str():
                    text += len(node)
                case None | bool() | int() | float():
                    pass
                case _:
                    raise unfit(f"a schema is made of JSON values, not of {type(node).__name__}")
        nodes += len(level)
        if nodes > MAX_NODES or text > MAX_CHARS:
            raise unfit(f"the schema is too large: more than {MAX_NODES} values or {MAX_CHARS} characters")
        if not inner:
            return
        level = inner
    raise unfit(f"the schema is nested more than {MAX_DEPTH} levels deep")


def step(parent: Subschema, *path: str | int, node: Any, same_value: bool = False) -> Subschema:
    """A schema inside another. With `same_value`, one for the same value, as those in `anyOf` are."""
    trail = parent.trail | {id(parent.node)} if same_value else frozenset()
    return Subschema(node, parent.where + "".join(map(_segment, path)), trail)


def _segment(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part[:40]}…" if len(part) > 40 else f".{part}"


def follow(root: Any, schema: Subschema) -> Subschema:
    """What the `$ref` of a schema points at: `#`, `#/$defs/Item` or any other JSON pointer into `root`."""
    pointer = schema.node["$ref"]
    if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
        raise unfit(f'"$ref" at {schema.where} must be a pointer into the schema, such as "#/$defs/Item"')
    target, parts = root, [_unescape(part) for part in pointer[2:].split("/")] if pointer != "#" else []
    for part in parts:
        match target:
            case dict() if part in target:
                target = target[part]
            case list() if part.isdecimal() and len(part) < 6 and int(part) < len(target):
                target = target[int(part)]
            case _:
                raise unfit(f'"$ref" at {schema.where} points at nothing: {pointer[:80]}')
    if len(schema.trail) >= MAX_TRAIL:
        raise unfit(f'"$ref" at {schema.where} is the end of too long a chain of references')
    return Subschema(target, "$" + "".join(map(_segment, parts)), schema.trail | {id(schema.node)})


def _unescape(part: str) -> str:
    return unquote(part).replace("~1", "/").replace("~0", "~")


def schemas_in(schema: Subschema, keyword: str, *, same_value: bool = False) -> Schemas:
    """The schemas in a keyword's list, which must not be empty."""
    value = schema.node[keyword]
    if not isinstance(value, list) or not value:
        raise unfit(f'"{keyword}" at {schema.where} must be a list of at least one schema')
    return tuple(step(schema, keyword, n, node=node, same_value=same_value) for n, node in enumerate(value))


def read_shape(schema: Subschema) -> Shape:
    """What a schema's own keywords ask for; `$ref`, `allOf`, `anyOf` and `oneOf` are not among them."""
    for keyword in REFUSED.keys() & schema.node.keys():
        if canonical(schema.node[keyword]) not in map(canonical, REFUSED[keyword]):
            raise unfit(f'"{keyword}" at {schema.where} cannot be expressed')
    shape = Shape(
        where=schema.where,
        hints=frozenset(HINTS[keyword] for keyword in HINTS.keys() & schema.node.keys()),
        types=_types(schema),
        values=_values(schema),
        numbers=_numbers(schema),
        min_length=_count(schema, "minLength") or 0,
        max_length=_count(schema, "maxLength"),
        pattern=_text(schema, "pattern"),
        format=_text(schema, "format"),
        min_items=_count(schema, "minItems"),
        max_items=_count(schema, "maxItems"),
        properties=_properties(schema),
        required=_required(schema),
        additional=_additional(schema),
        min_properties=_count(schema, "minProperties") or 0,
        max_properties=_count(schema, "maxProperties"),
    )
    return _with_multiple(schema, _with_items(schema, shape))


def _get(schema: Subschema, keyword: str, is_right: Callable[[Any], bool], what: str) -> Any:
    """A keyword's value, None if it is not there."""
    if keyword not in schema.node:
        return None
    value = schema.node[keyword]
    if not is_right(value):
        raise unfit(f'"{keyword}" at {schema.where} must be {what}')
    return value


def _is_number(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _count(schema: Subschema, keyword: str) -> int | None:
    value = _get(schema, keyword, _is_count, "a whole number that is not negative")
    return None if value is None else int(value)


def _text(schema: Subschema, keyword: str) -> str | None:
    value: str | None = _get(schema, keyword, lambda value: isinstance(value, str), "a string")
    return value


def _types(schema: Subschema) -> tuple[str, ...] | None:
    value = schema.node.get("type", TYPES)
    if "type" not in schema.node:
        return None
    names = [value] if isinstance(value, str) else value
    if not _are_strings(names) or not names or not set(names) <= set(TYPES):
        raise unfit(f'"type" at {schema.where} must be one or more of {", ".join(TYPES)}')
    if schema.node.get("nullable") is True:
        names = [*names, "null"]
    return tuple(dict.fromkeys(names))


def _values(schema: Subschema) -> tuple[Any, ...] | None:
    values = _get(
        schema, "enum", lambda value: isinstance(value, list) and bool(value), "a list of at least one value"
    )
    if values is not None and len(values) > MAX_VALUES:
        raise unfit(f'"enum" at {schema.where} has more than {MAX_VALUES} values')
    if "const" in schema.node:
        const = schema.node["const"]
        if values is not None and canonical(const) not in map(canonical, values):
            raise unfit(f'"const" at {schema.where} is not among the values of "enum"')
        return (const,)
    if values is not None and schema.node.get("nullable") is True:
        return (*values, None)
    return None if values is None else tuple(values)


def _numbers(schema: Subschema) -> Range:
    if not schema.node.keys() & {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}:
        return Range()
    low, high = _bound(schema, "minimum", "exclusiveMinimum"), _bound(schema, "maximum", "exclusiveMaximum")
    return Range(low=low[0]).meet(Range(low=low[1])).meet(Range(high=high[0])).meet(Range(high=high[1]))


def _bound(schema: Subschema, closed: str, opened: str) -> tuple[Bound | None, Bound | None]:
    """Up to draft 4, and in OpenAPI 3.0, `exclusiveMinimum` is a boolean that tells how `minimum` is meant."""
    limit = _get(schema, closed, _is_number, "a number")
    strict = _get(schema, opened, lambda value: _is_number(value) or isinstance(value, bool), "a number")
    return (
        None if limit is None else Bound(_exact(limit), is_open=strict is True),
        None if strict is None or isinstance(strict, bool) else Bound(_exact(strict), is_open=True),
    )


def _exact(value: float) -> Fraction:
    """0.1 as it was written, not as the double nearest to it."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def _with_multiple(schema: Subschema, shape: Shape) -> Shape:
    multiple = _get(schema, "multipleOf", _is_number, "a number")
    if multiple is None:
        return shape
    if multiple != 1:
        raise unfit(f'"multipleOf" at {schema.where} cannot be expressed unless it is 1')
    types = common_types(shape.types or ("number",), ("integer", *(name for name in TYPES if name != "number")))
    return replace(shape, types=types)


def _with_items(schema: Subschema, shape: Shape) -> Shape:
    """Draft 7 has the `prefixItems` in `items`, and then `additionalItems` in the place of `items`."""
    node = schema.node
    listed, rest = (
        ("items", "additionalItems") if isinstance(node.get("items"), list) else ("prefixItems", "items")
    )
    prefix = tuple((inner,) for inner in schemas_in(schema, listed)) if node.get(listed, []) != [] else ()
    items = (step(schema, rest, node=node[rest]),) if rest in node else None
    return replace(shape, prefix=prefix, items=items)


def _properties(schema: Subschema) -> Mapping[str, Schemas]:
    value = _get(schema, "properties", lambda value: isinstance(value, dict), "an object") or {}
    return {name: (step(schema, "properties", name, node=node),) for name, node in value.items()}


def _required(schema: Subschema) -> tuple[str, ...]:
    return tuple(_get(schema, "required", _are_strings, "a list of strings") or ())


def _additional(schema: Subschema) -> Schemas | None:
    if "additionalProperties" not in schema.node:
        return None
    return (step(schema, "additionalProperties", node=schema.node["additionalProperties"]),)
