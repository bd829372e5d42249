"""Structured output: a JSON schema as the grammar of the answers that satisfy it.

Every answer that the grammar allows satisfies the schema; what a grammar cannot keep is refused, never dropped.
Narrower than the standard on purpose, since it is what people mean and what models do well: members come in the
order of `properties`; where there are properties, others need `additionalProperties`; a tuple has all its items
unless `minItems` says otherwise; `oneOf` is read as `anyOf`.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from a3s_power.grammar.automaton import Until, write
from a3s_power.grammar.gbnf import Grammar, ThinkingFrame, any_of, literal, unfit
from a3s_power.grammar.schemaread import check_size, follow, read_shape, schemas_in
from a3s_power.grammar.shapes import Schemas, Shape, Subschema, meet
from a3s_power.grammar.values import Values

MAX_QUOTED = 200
"""Characters of what is no format that its error repeats."""

_OBJECT = Subschema({"type": "object"}, "$")


def object_rule(grammar: Grammar, schema: Mapping[str, object]) -> str:
    """The name of a rule for the objects that satisfy a schema. Raises as `AnswerGrammar.of` does."""
    check_size(schema)
    return _Compiler(grammar, schema).compile(_OBJECT)


class AnswerGrammar:
    """The grammar of answers; made by `of` for those in a format, which is the costly part."""

    def __init__(self, grammar: Grammar, answer: str) -> None:
        """`answer` is the name of the rule to begin with."""
        self._grammar = grammar
        self._answer = answer

    @classmethod
    def of(cls, output_format: object) -> Self:
        """Compile "json", which is any JSON object, or a JSON schema. Takes up to half a second.

        Raises InvalidRequest, with what and where, for a schema that is malformed, too large, or cannot be kept.
        """
        grammar = Grammar()
        match output_format:
            case "json":
                return cls(grammar, "object")
            case dict():
                check_size(output_format)
                return cls(grammar, _Compiler(grammar, output_format).compile())
        # Ollama's words; the value is quoted as JSON in JSON
        text = json.dumps(output_format, ensure_ascii=False, separators=(",", ":"))[:MAX_QUOTED]
        quoted = json.dumps(text, ensure_ascii=False)
        raise unfit(f'{quoted}; expected "json" or a valid JSON Schema object')

    def text(self, thinking: ThinkingFrame | None = None) -> str:
        """As GBNF. With `thinking`, free text up to the closing tag may stand before the answer."""
        return self._grammar.text(self._framed(thinking))

    def _framed(self, thinking: ThinkingFrame | None) -> str:
        if thinking is None:
            return f"ws {self._answer}"
        gap = self._grammar.define(r"[ \t\r\n]{0,4}", "gap")
        thought = write(self._grammar, Until(thinking.closing), f"{gap} {self._answer}")
        if thinking.is_inside:
            return str(thought)
        unthought = f"{literal(thinking.answer)} ws {self._answer}" if thinking.answer else self._answer
        return f"ws ( {literal(thinking.opening)} {thought} | {unthought} )"


@dataclass(frozen=True, slots=True)
class _Branch:
    """One way through the alternatives of a value: its shapes, alternatives to choose from, schemas to read."""

    shapes: tuple[Shape, ...]
    unions: tuple[Schemas, ...]
    pending: Schemas


class _Compiler:
    """Makes a rule for every value of a schema. Values inside others wait in a queue, so nothing here recurses."""

    def __init__(self, grammar: Grammar, root: Mapping[str, object]) -> None:
        self._grammar = grammar
        self._root = root
        self._values = Values(grammar, self._rule)
        self._names: dict[frozenset[int], str] = {}
        self._shapes_read: dict[int, Shape] = {}
        self._queue: deque[tuple[str, Schemas]] = deque()

    def compile(self, *others: Subschema) -> str:
        """The name of the rule for what satisfies the root schema, and others besides."""
        answer = self._rule((Subschema(self._root, "$"), *others))
        while self._queue:
            name, schemas = self._queue.popleft()
            self._grammar.fill(name, self._body(schemas))
        return answer

    def _rule(self, schemas: Schemas) -> str:
        """The name of the rule for a value under all of these schemas."""
        asking = [schema for schema in schemas if schema.node is not True and schema.node != {}]
        if not asking:
            return "value"
        key = frozenset(id(schema.node) for schema in asking)
        if key not in self._names:
            name = self._names[key] = self._grammar.reserve("v")
            self._queue.append((name, tuple(asking)))
        return self._names[key]

    def _body(self, schemas: Schemas) -> str:
        bodies = [body for shape in self._shapes(schemas) for body in self._values.bodies(shape)]
        if not bodies:
            raise unfit(f"no value can satisfy the schema at {schemas[0].where}")
        return any_of(bodies)

    def _shapes(self, schemas: Schemas) -> Iterator[Shape]:
        """The alternatives for a value, however deep they lie in `anyOf`, `allOf` and references."""
        branches = [_Branch((), (), schemas)]
        while branches:
            branch = self._resolved(branches.pop())
            if branch is None:
                continue
            if branch.unions:
                union, *others = branch.unions
                branches += [_Branch(branch.shapes, tuple(others), (way,)) for way in reversed(union)]
                continue
            self._grammar.spend(len(branch.shapes) * sum(len(shape.properties) for shape in branch.shapes))
            if (shape := meet(branch.shapes, schemas[0].where)) is not None:
                yield shape
        if len(schemas) == 1 and schemas[0].node is not False and schemas[0].node.get("nullable") is True:
            yield Shape(where=schemas[0].where, types=("null",))

    def _resolved(self, branch: _Branch) -> _Branch | None:
        """The branch with nothing pending; None if one of its schemas is `false`."""
        shapes, unions = list(branch.shapes), list(branch.unions)
        pending: list[Subschema | Shape] = list(reversed(branch.pending))
        while pending:
            match pending.pop():
                case Shape() as shape:
                    shapes.append(shape)
                case Subschema(False):
                    return None
                case Subschema(True):
                    pass
                case schema:
                    self._check(schema)
                    # What it refers to comes first: members then stand in the order in which they are inherited.
                    pending.append(self._shape(schema))
                    pending += reversed(self._inherited(schema))
                    unions += (
                        schemas_in(schema, word, same_value=True)
                        for word in ("anyOf", "oneOf")
                        if word in schema.node
                    )
        return _Branch(tuple(shapes), tuple(unions), ())

    def _shape(self, schema: Subschema) -> Shape:
        """Read once, however many references lead to it."""
        key = id(schema.node)
        if key not in self._shapes_read:
            self._shapes_read[key] = read_shape(schema)
        return self._shapes_read[key]

    def _inherited(self, schema: Subschema) -> Schemas:
        referred = (follow(self._root, schema),) if "$ref" in schema.node else ()
        return (*referred, *(schemas_in(schema, "allOf", same_value=True) if "allOf" in schema.node else ()))

    def _check(self, schema: Subschema) -> None:
        if not isinstance(schema.node, dict):
            raise unfit(f"the schema at {schema.where} must be an object or a boolean")
        if id(schema.node) in schema.trail:
            raise unfit(f"the schema at {schema.where} refers to itself with nothing in between")
        self._grammar.spend(
            8 + sum(len(value) for value in schema.node.values() if isinstance(value, dict | list))
        )
