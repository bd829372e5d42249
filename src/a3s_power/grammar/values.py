"""Rules for JSON values of one shape: an object's members in turn, an array's items, strings and numbers."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from a3s_power.grammar.automaton import none_of, one_of
from a3s_power.grammar.formats import FORMATS
from a3s_power.grammar.gbnf import MAX_CODE_POINT, MAX_REPEAT, Grammar, Ranges, any_of, literal, unfit
from a3s_power.grammar.patterns import matching_string
from a3s_power.grammar.ranges import Range, number_in
from a3s_power.grammar.shapes import TYPES, Schemas, Shape, common_types, type_of

MAX_LENGTH = 100_000
"""Characters in `minLength` and `maxLength`."""
BLOCK = 1000
"""Characters that are counted together where a length is more than MAX_REPEAT."""

_PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, MAX_CODE_POINT))
"""Characters that a JSON string holds as they are."""


class Values:
    """Writes shapes into a grammar. `rule_of` gives the name of the rule for a value inside the one at hand."""

    def __init__(self, grammar: Grammar, rule_of: Callable[[Schemas], str]) -> None:
        self._grammar = grammar
        self._rule_of = rule_of
        self._patterns: dict[tuple[str, int, int | None], str] = {}
        self._ranges: dict[tuple[Range, bool], str] = {}
        self._endless: dict[tuple[str, str], str] = {}

    def bodies(self, shape: Shape) -> Iterator[str]:
        """The alternatives for a value of that shape, one for each type; none if its values are of other types."""
        if shape.values is not None:
            yield from self._listed(shape)
            return
        types = shape.types or tuple(name for name in TYPES if name in shape.hints)
        if not types:
            yield "value"
        for name in types:
            if name != "integer" or "number" not in types:
                yield self._of_type(name, shape)

    def _of_type(self, name: str, shape: Shape) -> str:
        match name:
            case "object":
                return self._object(shape)
            case "array":
                return self._array(shape)
            case "string":
                return self._string(shape)
            case "number" | "integer":
                return self._number(shape, is_integer=name == "integer")
        return name

    def _number(self, shape: Shape, *, is_integer: bool) -> str:
        key = (shape.numbers, is_integer)
        if key not in self._ranges:
            self._ranges[key] = number_in(self._grammar, *key, shape.where)
        return self._ranges[key]

    # ---- listed values ----

    def _listed(self, shape: Shape) -> Iterator[str]:
        if shape.hints - {"string"} or shape.min_length or shape.max_length is not None or shape.pattern:
            raise unfit(f'"enum" or "const" at {shape.where} cannot be combined with other assertions')
        values = [value for value in shape.values or () if common_types((type_of(value),), shape.types) != ()]
        if values:
            yield one_of(self._grammar, [_json(value, shape.where) for value in values])

    # ---- strings ----

    def _string(self, shape: Shape) -> str:
        low, high = shape.min_length, shape.max_length
        if low > (low if high is None else high):
            raise unfit(f'"minLength" is more than "maxLength" at {shape.where}')
        if max(low, high or 0) > MAX_LENGTH:
            raise unfit(f'"minLength" or "maxLength" at {shape.where} is more than {MAX_LENGTH}')
        if shape.pattern is not None:
            return self._matching(shape.pattern, low, high, shape.where)
        if low or high is not None:
            return f'"\\"" {self._chars(low, high)} "\\""'
        if shape.format in FORMATS:
            return self._matching(FORMATS[shape.format], 0, None, shape.where)
        return "string"

    def _matching(self, pattern: str, low: int, high: int | None, where: str) -> str:
        key = (pattern, low, high)
        if key not in self._patterns:
            rule = matching_string(self._grammar, pattern, where, min_length=low, max_length=high)
            self._patterns[key] = rule
        return self._patterns[key]

    def _chars(self, low: int, high: int | None) -> str:
        """From `low` to `high` characters.

        Long texts go by blocks: a rule for each block instead of one for each character, at the price that the
        engine follows two readings, since any block may be the last.
        """
        repeat, define = self._grammar.repeat, self._grammar.define
        if max(low, high or 0) <= MAX_REPEAT:
            return repeat("char", low, high)
        block = define(repeat("char", BLOCK, BLOCK))
        first = f"{repeat(block, low // BLOCK, low // BLOCK)} {repeat('char', low % BLOCK, low % BLOCK)}"
        if high is None:
            return f"{first} char*"
        blocks, rest = divmod(high - low, BLOCK)
        short = define(repeat("char", 0, BLOCK - 1))
        more = define(repeat("char", 0, rest))
        for _ in range(blocks):
            more = define(f"{short} | {block} {more}")
        return f"{first} {more}"

    # ---- arrays ----

    def _array(self, shape: Shape) -> str:
        least, most = self._item_counts(shape)
        fixed = [self._rule_of(schemas) for schemas in shape.prefix[:most]]
        if not fixed:
            return self._list("[", self._rule_of(shape.items or ()), least, most, "]")
        more = 'ws "]"'
        if most is None or most > len(fixed):
            high = None if most is None else most - len(fixed)
            more = self._more(self._rule_of(shape.items or ()), max(least - len(fixed), 0), high, "]")
        for n, item in reversed(list(enumerate(fixed))[1:]):
            following = f'"," ws {item} {self._grammar.define(more)}'
            more = following if n < least else f'{following} | ws "]"'
        first = f"{fixed[0]} {self._grammar.define(more)}"
        return f'"[" ws {first}' if least else f'"[" ws ( {first} | "]" )'

    def _item_counts(self, shape: Shape) -> tuple[int, int | None]:
        """How many items there are. After fixed items others need `items`, as a closed object's members do."""
        least, most = shape.min_items, shape.max_items
        if _is_false(shape.items) or (shape.items is None and shape.prefix):
            most = min(len(shape.prefix), len(shape.prefix) if most is None else most)
        if least is None:
            least = len(shape.prefix) if most is None else min(len(shape.prefix), most)
        if most is not None and least > most:
            raise unfit(f'"minItems" is more than there may be at {shape.where}')
        if max(least, most or 0) > MAX_REPEAT:
            raise unfit(f'"minItems" or "maxItems" at {shape.where} is more than {MAX_REPEAT}')
        return least, most

    def _list(self, opening: str, item: str, low: int, high: int | None, closing: str) -> str:
        """Equal items, from `low` to `high`, between brackets."""
        opening, end = f"{literal(opening)} ws", literal(closing)
        if high == 0:
            return f"{opening} {end}"
        more = self._more(item, max(low - 1, 0), None if high is None else high - 1, closing)
        return f"{opening} {item} {more}" if low else f"{opening} ( {item} {more} | {end} )"

    def _more(self, item: str, low: int, high: int | None, closing: str) -> str:
        """From `low` to `high` further items, each after a comma, and the closing bracket."""
        next_one = self._grammar.define(f'"," ws {item}')
        if high is not None:
            return f"{self._grammar.repeat(next_one, low, high)} ws {literal(closing)}"
        key = (item, closing)
        if key not in self._endless:
            rest = self._endless[key] = self._grammar.reserve("more")
            self._grammar.fill(rest, f'"," ws {item} {rest} | ws {literal(closing)}')
        return f"{self._grammar.repeat(next_one, low, low)} {self._endless[key]}"

    # ---- objects ----

    def _object(self, shape: Shape) -> str:
        is_open = not (_is_false(shape.additional) or (shape.additional is None and shape.properties))
        members = self._members(shape, is_open=is_open)
        self._check_counts(shape, len(members), is_open=is_open)
        if not members:
            if not is_open:
                return '"{" ws "}"'
            if not shape.additional and not shape.min_properties and shape.max_properties is None:
                return "object"
            member = self._grammar.define(f'string ":" ws {self._rule_of(shape.additional or ())}')
            return self._list("{", member, shape.min_properties, shape.max_properties, "}")
        first, may_be_empty = self._chain(members, shape, is_open=is_open)
        if may_be_empty and not shape.min_properties:
            return f'"{{" ws ( "\\"" {first} | "}}" )'
        return f'"{{" ws "\\"" {first}'

    def _members(self, shape: Shape, *, is_open: bool) -> dict[str, Schemas]:
        """The members by name, in order. One that is required may be known to `additionalProperties` alone."""
        members = dict(shape.properties)
        for name in shape.required:
            if name not in members and not is_open:
                raise unfit(
                    f'"required" at {shape.where} asks for "{name[:40]}", which is not among the properties'
                )
            members.setdefault(name, shape.additional or ())
        self._grammar.spend(4 * len(members))
        return {name: ways for name, ways in members.items() if name in shape.required or not _is_false(ways)}

    def _check_counts(self, shape: Shape, members: int, *, is_open: bool) -> None:
        """Members are not counted. Two of the same name may be one, too, where any name is allowed."""
        least, most = shape.min_properties, shape.max_properties
        if least > max(1, len(shape.required)) or (least and not members and not is_open):
            raise unfit(f'"minProperties" at {shape.where} cannot be expressed')
        if most is not None and (most < least or (members and (is_open or most < members)) or most > MAX_REPEAT):
            raise unfit(f'"maxProperties" at {shape.where} cannot be expressed')

    def _chain(self, members: dict[str, Schemas], shape: Shape, *, is_open: bool) -> tuple[str, bool]:
        """The rule for all members from behind the first quote to the closing brace; whether all may be left out.

        Built from the end. For each member one rule that begins with its name, or with that of a later one if it
        is optional, and one for what may follow it. So the engine reads a comma, a space, a quote in one way.
        """
        define = self._grammar.define
        here, after, may_end = "", 'ws "}"', True
        if is_open:
            here, after = self._others(members, shape.additional or ())
        for name, ways in reversed(members.items()):
            key = literal(_json(name, shape.where)[1:] + ":")
            ways_on = [f"{key} ws {self._rule_of(ways)} {define(after)}"]
            if name in shape.required:
                may_end = False
            elif here:
                ways_on.append(here)
            here = define(any_of(ways_on), "m")
            following = f'"," ws "\\"" {here}'
            after = f'{following} | ws "}}"' if may_end else following
        return here, may_end

    def _others(self, members: dict[str, Schemas], additional: Schemas) -> tuple[str, str]:
        """Rules for further members, and for what follows one. Their names are written without escapes, so that
        none can be a known name in disguise."""
        here, after = self._grammar.reserve("m"), self._grammar.reserve("more")
        name = none_of(self._grammar, members, _PLAIN, '"\\":"')
        self._grammar.fill(here, f"{name} ws {self._rule_of(additional)} {after}")
        self._grammar.fill(after, f'"," ws "\\"" {here} | ws "}}"')
        return here, after


def _is_false(schemas: Schemas | None) -> bool:
    return any(schema.node is False for schema in schemas or ())


def _json(value: Any, where: str) -> str:
    """JSON as a model writes it, without spaces; half of a surrogate pair, which UTF-8 cannot hold, is escaped."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as exc:
        raise unfit(f"a number in the schema at {where} is too large") from exc
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)
