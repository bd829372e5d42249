"""Structured output: the answers that a JSON schema's grammar allows, and the schemas that are refused."""

import json
import random
import re
from contextlib import asynccontextmanager, suppress

import jsonschema_rs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a3s_power.errors import InvalidRequest
from a3s_power.grammar.formats import FORMATS
from a3s_power.grammar.gbnf import ThinkingFrame
from a3s_power.grammar.schema import AnswerGrammar
from a3s_power.grammar.schemaread import REFUSED
from a3s_power.runner.base import LoadSpec
from a3s_power.runner.link import exchange
from tests.support import gbnf
from tests.support.engines import real_engine


def answer_grammar(output_format, thinking=None):
    return AnswerGrammar.of(output_format).text(thinking)


PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array"}},
    "required": ["name"],
}
OPEN = {
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "additionalProperties": {"type": "null"},
}
TREE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "v": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            },
            "required": ["v", "next"],
        }
    },
}
INHERITED = {
    "allOf": [{"$ref": "#/definitions/Base"}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}],
    "definitions": {"Base": {"properties": {"a": {"type": "number"}}, "required": ["a"]}},
}
NARROWED = {
    "$ref": "#/$defs/N",
    "maximum": 9,
    "description": "small",
    "$defs": {"N": {"type": "integer", "minimum": 7}},
}
EITHER_KEY = {
    "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
    "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
}
TUPLE = {"prefixItems": [{"type": "integer"}, {"type": "string"}]}
POINTER = {"properties": {"a/b~%": {"const": 1}, "c": {"$ref": "#/properties/a~1b~0%25"}}, "required": ["c"]}

# A schema, answers that it allows, answers that it does not.
CASES = {
    "an object": (
        PERSON,
        ['{"name":"x"}', '{ "name": "é\\n", "age": 3,\n  "tags": [1, "a"]\n}', '{"name":"x","tags":[]}'],
        ["{}", '{"age":3}', '{"age":3,"name":"x"}', '{"name":"x","name":"x"}', '{"name":"x","other":1}',
         '{"name":"x",}', '{"name":"x"', '{"name":null}', '{"name" : "x"}', '{\n\n\n"name":"x"}', "[]"],
    ),
    "no member is required": ({"properties": {"a": True, "b": {}}}, ["{}", '{"a":1}', '{"b":[{}]}', '{"a":1,"b":2}'],
                              ['{"b":1,"a":2}', '{"a":1,"a":2}', '{,"b":1}', '{"c":1}']),
    "further members": (OPEN, ['{}', '{"a":1,"x":null}', '{"x":null,"y":null}', '{"ab":null}', '{"":null}'],
                        ['{"a":null}', '{"x":1}', '{"x":null,"a":1}', '{"\\u0061":null}', '{"a":1,"b":null}']),
    "any object": ({"type": "object"}, ["{}", '{"a":{"b":[1,null]}}'], ["[]", "1"]),
    "a dictionary": ({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2,
                      "minProperties": 1}, ['{"a":1}', '{"a":1,"b":2}'], ["{}", '{"a":"x"}', '{"a":1,"b":2,"c":3}']),
    "required but not described": ({"type": "object", "required": ["k"]}, ['{"k":1}', '{"k":1,"x":2}'], ["{}"]),
    "no members": ({"type": "object", "properties": {}, "additionalProperties": False}, ["{}"], ['{"a":1}']),
    "a member that must not be": ({"properties": {"a": {"type": "null"}, "b": False}}, ['{"a":null}'], ['{"b":1}']),
    "odd names in an open object": (
        {"properties": {'"': {"type": "null"}}, "additionalProperties": {"type": "null"}},
        ['{"\\"":null,"a":null}'],
        ['{"":":null}', '{"a":null,"\\"":null}'],
    ),
    "odd names": ({"properties": {'"\\\n': {"type": "null"}}}, ['{"\\"\\\\\\n":null}'], ['{"x":null}']),
    "an array": ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
                 ["[true]", "[ true, false ]", "[true,true,true]"], ["[]", "[1]", "[true,true,true,true]", "[true,]"]),
    "an array without bounds": ({"items": {"const": 1}, "minItems": 2}, ["[1,1]", "[1,1,1,1]"], ["[]", "[1]"]),
    "an empty array": ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    "a tuple": (TUPLE, ['[1,"a"]'], ["[]", "[1]", '["a",1]', '[1,"a",2]']),
    "a tuple that may be shorter": (TUPLE | {"minItems": 0}, ["[]", "[1]", '[1,"a"]'], ['["a"]']),
    "a tuple and more": (TUPLE | {"items": {"type": "null"}, "maxItems": 3}, ['[1,"a"]', '[1,"a",null]'],
                         ["[1]", '[1,"a",1]', '[1,"a",null,null]']),
    "a tuple of draft 7": ({"items": [{"const": 1}], "additionalItems": False}, ["[1]"], ["[]", "[1,2]"]),
    "a text": ({"type": "string"}, ['""', '"a\\"\\\\\\/\\u00e9\\n"', '"é\U0001f600"'],
               ['"a', '"\n"', '"\\x"', '"\\ud83d"', "a", '"\x01"']),
    "a text's length": ({"minLength": 2, "maxLength": 3}, ['"ab"', '"\\n\\u00e9\U0001f600"'], ['"a"', '"abcd"', '"\\n"']),
    "a long text": ({"minLength": 2500, "maxLength": 5000}, [f'"{"a" * n}"' for n in (2500, 3499, 3500, 4321, 5000)],
                    [f'"{"a" * n}"' for n in (0, 2499, 5001)]),
    "a text of some length": ({"minLength": 1}, ['"a"', '"abc"'], ['""']),
    "a pattern": ({"pattern": "^[a-z]+$", "maxLength": 3}, ['"abc"'], ['"abcd"', '"A"', '""']),
    "a format": ({"type": "string", "format": "date"}, ['"2024-01-31"'], ['"2024-01-32"']),
    "a format beside a length": ({"type": "string", "format": "uri", "maxLength": 2083}, ['"x"'], []),
    "an unknown format": ({"type": "string", "format": "colour"}, ['"red"'], []),
    "an integer": ({"type": "integer"}, ["0", "-12"], ["1.0", "01", "1e3"]),
    "a number": ({"type": "number"}, ["0", "-1.5", "1e10", "2.5E-3"], [".5", "1.", "1e999", "9" * 16]),
    "an integer's bounds": ({"type": "integer", "exclusiveMinimum": -1.5, "maximum": 10.2}, ["-1", "0", "10"], ["-2", "11"]),
    "bounds of draft 4": ({"minimum": 0, "exclusiveMinimum": True, "maximum": 1}, ["0.1", "1"], ["0", "1.1"]),
    "a whole number": ({"type": "number", "multipleOf": 1}, ["3"], ["3.5"]),
    "what does not concern the type": ({"type": "string", "minimum": 3}, ['"a"'], ["5"]),
    "several types": ({"type": ["integer", "null"], "minimum": 5}, ["5", "null"], ["4", '"a"']),
    "nullable": ({"type": "string", "nullable": True}, ['"a"', "null"], ["1"]),
    "nullable by reference": ({"nullable": True, "allOf": [{"type": "string"}]}, ['"a"', "null"], ["1"]),
    "enum": ({"enum": ["a", "ab", 1, None, [1, {"b": 2}]]}, ['"a"', '"ab"', "1", "null", '[1,{"b":2}]'], ['"b"', "2"]),
    "enum of a type": ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
    "const": ({"const": 'say "hi"\n'}, ['"say \\"hi\\"\\n"'], ['"say"']),
    "half a surrogate pair": ({"const": "\ud83d"}, ['"\\ud83d"'], []),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}}]}, ["1", "[null]"], ["[1]"]),
    "oneOf is read as anyOf": ({"oneOf": [{"const": 1}, {"const": 2}]}, ["1", "2"], ["3"]),
    "anyOf beside other keywords": (EITHER_KEY, ['{"a":null}', '{"b":null}', '{"a":null,"b":null}'], ["{}"]),
    "alternatives that cannot be": ({"type": "string", "anyOf": [{"type": "null"}, {"minLength": 1}, False]}, ['"a"'],
                                    ['""', "null"]),
    "allOf": (INHERITED, ['{"a":1,"b":null}'], ['{"a":1}', '{"b":null}', '{"b":null,"a":1}']),
    "one property in two schemas": ({"allOf": [{"properties": {"n": {"minimum": 3}}}, {"properties": {"n": {"maximum": 5}}}]},
                                    ['{"n":4}', "{}"], ['{"n":2}', '{"n":6}']),
    "inherited by a schema for all others": ({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                                                        {"additionalProperties": {"maximum": 5}}]},
                                             ['{"a":5}'], ['{"a":6}']),
    "keywords beside a reference": (NARROWED, ["7", "9"], ["6", "10"]),
    "recursion": (TREE, ['{"v":1,"next":null}', '{"v":1,"next":{"v":2,"next":null}}'], ['{"v":1}', '{"v":1,"next":1}']),
    "recursion to the root": ({"properties": {"n": {"$ref": "#"}}}, ["{}", '{"n":{"n":{}}}'], ['{"n":1}']),
    "any pointer": (POINTER, ['{"c":1}', '{"a/b~%":1,"c":1}'], ['{"c":2}']),
    "annotations": ({"type": "null", "title": "x", "default": 1, "examples": [2], "strict": True, "x-y": [], "$id": "u",
                     "contentEncoding": "base64", "$comment": "", "deprecated": True, "discriminator": {}}, ["null"], ["1"]),
    "anything": ({}, ["1", '{"a":[null,true]}', '"x"'], ["", "nul"]),
}  # fmt: skip


@pytest.mark.parametrize("schema, allowed, refused", CASES.values(), ids=CASES)
def test_a_grammar_allows_what_the_schema_does(schema, allowed, refused):
    grammar = gbnf.Grammar(answer_grammar(schema))
    assert [text for text in allowed if not grammar.allows(text)] == []
    assert [text for text in refused if grammar.allows(text)] == []


@pytest.mark.parametrize("schema, allowed", [case[:2] for case in CASES.values()], ids=CASES)
def test_what_is_allowed_is_valid(schema, allowed):
    grammar = gbnf.Grammar(answer_grammar(schema))
    is_valid = validator(schema)
    for seed in range(20):
        answer = grammar.sample(random.Random(seed))
        assert is_valid(json.loads(answer)), answer


def validator(schema):
    """Whether a value is valid. Drafts that we read and that validators of today do not are written anew."""
    text = json.dumps(schema).replace('"minimum": 0, "exclusiveMinimum": true', '"exclusiveMinimum": 0')
    text = re.sub(r'"type": "(\w+)", "nullable": true', r'"type": ["\1", "null"]', text)
    text = text.replace('"nullable": true, "allOf": [', '"anyOf": [{"type": "null"}, ')
    text = text.replace('"items": [{"const": 1}], "additionalItems"', '"prefixItems": [{"const": 1}], "items"')
    if "\\ud83d" in text or '"$id"' in text:
        return lambda value: True
    return jsonschema_rs.Draft202012Validator(json.loads(text), validate_formats="maxLength" not in text).is_valid


REFUSALS = [
    ({"properties": {"tags": {"uniqueItems": True}}}, '"uniqueItems" at $.properties.tags cannot be expressed'),
    ({"anyOf": [{"type": "null"}, {"not": {}}]}, '"not" at $.anyOf[1] cannot be expressed'),
    ({"multipleOf": 0.01}, '"multipleOf" at $ cannot be expressed unless it is 1'),
    ({"type": "text"}, '"type" at $ must be one or more of object, array, string, number, integer, boolean, null'),
    ({"type": 5}, '"type" at $ must be one or more of object, array, string, number, integer, boolean, null'),
    ({"type": []}, '"type" at $ must be one or more of object, array, string, number, integer, boolean, null'),
    ({"properties": []}, '"properties" at $ must be an object'),
    ({"properties": {"a": 5}}, "the schema at $.properties.a must be an object or a boolean"),
    ({"required": 5}, '"required" at $ must be a list of strings'),
    ({"required": ["a"], "additionalProperties": False},
     '"required" at $ asks for "a", which is not among the properties'),
    ({"enum": []}, '"enum" at $ must be a list of at least one value'),
    ({"enum": list(range(2001))}, '"enum" at $ has more than 2000 values'),
    ({"enum": ["a"], "minLength": 3}, '"enum" or "const" at $ cannot be combined with other assertions'),
    ({"enum": ["a"], "const": "b"}, '"const" at $ is not among the values of "enum"'),
    ({"enum": ["a"], "type": "null"}, "no value can satisfy the schema at $"),
    ({"const": float("nan")}, "a number in the schema at $ is too large"),
    ({"anyOf": []}, '"anyOf" at $ must be a list of at least one schema'),
    ({"allOf": {}}, '"allOf" at $ must be a list of at least one schema'),
    ({"properties": {"a": False}, "required": ["a"]}, "no value can satisfy the schema at $.properties.a"),
    ({"prefixItems": [False]}, "no value can satisfy the schema at $.prefixItems[0]"),
    ({"anyOf": [False]}, "no value can satisfy the schema at $"),
    ({"allOf": [{"type": "null"}, {"type": "string"}]}, "no value can satisfy the schema at $"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]},
     '"pattern" at $.allOf[1] cannot be combined with another one for the same value'),
    ({"minimum": 3, "maximum": 2}, "no number is within the bounds at $"),
    ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "no integer is within the bounds at $"),
    ({"minimum": "3"}, '"minimum" at $ must be a number'),
    ({"minimum": True}, '"minimum" at $ must be a number'),
    ({"minimum": 1e300}, "the bounds at $ have more than 20 digits"),
    ({"maximum": 1e-30}, "the bounds at $ have more than 20 decimal places"),
    ({"minItems": 3, "maxItems": 2}, '"minItems" is more than there may be at $'),
    ({"maxItems": 2000}, '"minItems" or "maxItems" at $ is more than 1999'),
    ({"minItems": -1}, '"minItems" at $ must be a whole number that is not negative'),
    ({"minLength": 1.5}, '"minLength" at $ must be a whole number that is not negative'),
    ({"minLength": 3, "maxLength": 2}, '"minLength" is more than "maxLength" at $'),
    ({"maxLength": 100_001}, '"minLength" or "maxLength" at $ is more than 100000'),
    ({"pattern": "(?=a)"}, '"pattern" at $ cannot be expressed: it has "(?="'),
    ({"pattern": "a^"}, '"pattern" at $ matches no text of the length asked for'),
    ({"properties": {"a": {}}, "minProperties": 2}, '"minProperties" at $ cannot be expressed'),
    ({"properties": {"a": {}, "b": {}}, "maxProperties": 1}, '"maxProperties" at $ cannot be expressed'),
    ({"$ref": "https://example.com/schema"}, '"$ref" at $ must be a pointer into the schema, such as "#/$defs/Item"'),
    ({"$ref": "#/$defs/A"}, '"$ref" at $ points at nothing: #/$defs/A'),
    ({"$ref": "#"}, "the schema at $ refers to itself with nothing in between"),
    ({"items": {"$ref": "#/$defs/A"}, "$defs": {"A": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/A"}]}}},
     "the schema at $.$defs.A refers to itself with nothing in between"),
    ({"properties": {"a": {1, 2}}}, "a schema is made of JSON values, not of set"),
]  # fmt: skip


@pytest.mark.parametrize("schema, message", REFUSALS, ids=[message[:60] for _, message in REFUSALS])
def test_a_schema_is_refused_with_what_and_where(schema, message):
    with pytest.raises(InvalidRequest) as refused:
        answer_grammar(schema)
    assert str(refused.value) == f"invalid format: {message}"


@pytest.mark.parametrize("keyword", REFUSED)
def test_an_assertion_that_cannot_be_kept_is_never_dropped(keyword):
    with pytest.raises(InvalidRequest, match=re.escape(f'"{keyword}" at $.items cannot be expressed')):
        answer_grammar({"type": "array", "items": {keyword: {"type": "string"}}})
    for harmless in REFUSED[keyword]:
        assert answer_grammar({keyword: harmless})


def test_a_format_is_json_or_a_schema():
    assert answer_grammar("json") != answer_grammar({})
    with pytest.raises(InvalidRequest, match="invalid format"):
        answer_grammar("xml")


def chained(count):
    """Definitions that each refer to the next one twice."""
    names = [f"#/$defs/{n}" for n in range(count)]
    defs = {str(n): {"anyOf": [{"$ref": name}, {"$ref": name}]} for n, name in enumerate(names[1:])}
    return {"$ref": names[0], "$defs": {**defs, str(count - 1): {"type": "null"}}}


def nested(depth, wrap, inner):
    for _ in range(depth):
        inner = wrap(inner)
    return inner


HOSTILE = {
    "deep lists": nested(1000, lambda inner: [inner], 1),
    "deep schemas": nested(1000, lambda inner: {"items": inner}, {}),
    "deep alternatives": nested(49, lambda inner: {"anyOf": [inner, inner]}, {"type": "null"}),
    "deep annotations": {"default": nested(1000, lambda inner: {"a": inner}, 1)},
    "chained references": chained(60),
    "endless references": chained(1000),
    "many properties": {"properties": {f"property{n}": {"type": "string"} for n in range(30_000)}},
    "many times the same": {"allOf": [{"$ref": "#/$defs/A"}] * 4000,
                            "$defs": {"A": {"properties": {str(n): {} for n in range(1000)}}}},
    "an object for each alternative": {"properties": {str(n): {} for n in range(2000)},
                                       "anyOf": [{"title": str(n)} for n in range(4000)]},
    "alternatives of alternatives": {"allOf": [{"anyOf": [{"minimum": n}, {"maximum": n}]} for n in range(40)]},
    "many counts": {"anyOf": [{"maxLength": n} for n in range(1, 1999)]},
    "long words": {"enum": ["a" * n for n in range(1, 700)]},
    "a long name": {"properties": {"a" * 100_000: {"items": {"type": "null"}}}, "additionalProperties": True},
    "complex patterns": {"anyOf": [{"pattern": f"^(a?){{{n}}}x.*b.{{9}}"} for n in range(200)]},
    "huge numbers": {"minimum": 10**5000, "maximum": -(10**4000)},
    "a huge constant": {"const": 10**5000},
    "infinity": {"maximum": float("inf")},
}  # fmt: skip


@pytest.mark.timeout(30)  # milliseconds, most of them; without bounds, minutes
@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_schema_is_answered(schema):
    with suppress(InvalidRequest):
        assert answer_grammar(schema if isinstance(schema, dict) else {"x": schema})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYWORDS = st.sampled_from([
    *REFUSED, "$ref", "allOf", "anyOf", "oneOf", "type", "enum", "const", "nullable", "properties", "required", "items",
    "additionalProperties", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "exclusiveMinimum", "multipleOf", "minProperties", "maxProperties", "$defs", "title",
])  # fmt: skip
ODD_SCHEMAS = st.recursive(
    JSON | st.sampled_from(["string", "object", "#", "#/$defs", "#/properties/a", "^a+$", "date", 1, 5]),
    lambda inner: st.dictionaries(KEYWORDS, inner | st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from("ab"), inner, max_size=2), max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=400)
@given(st.dictionaries(KEYWORDS, ODD_SCHEMAS, max_size=4))
def test_no_schema_raises_anything_else(schema):
    try:
        grammar = answer_grammar(schema)
    except InvalidRequest:
        return
    assert gbnf.Grammar(grammar)


@st.composite
def bounded(draw, low, high, values, **fixed):
    """A schema with either, both or none of two bounds."""
    one, other = sorted((draw(values), draw(values)))
    return fixed | draw(st.sampled_from([{}, {low: one}, {high: other}, {low: one, high: other}]))


@st.composite
def objects(draw, inner):
    properties = draw(st.dictionaries(st.sampled_from(["a", "b", "ab", '"', "é"]), inner, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    schema = {"type": "object", "properties": properties, "required": required}
    return schema | draw(
        st.just({}) | st.builds(lambda value: {"additionalProperties": value}, inner | st.booleans())
    )


COUNTS = st.integers(0, 4)
LEAVES = st.one_of(
    bounded("minLength", "maxLength", st.integers(0, 12), type="string"),
    bounded("minimum", "maximum", st.integers(-300, 300), type="integer"),
    bounded("minimum", "maximum", st.decimals(-9, 9, places=2).map(float), type="number"),
    bounded("exclusiveMinimum", "maximum", st.integers(-300, 300), type="number").filter(
        lambda schema: schema.get("exclusiveMinimum") != schema.get("maximum")
    ),
    st.sampled_from(sorted(FORMATS)).map(lambda name: {"type": "string", "format": name}),
    st.sampled_from(["^[a-c]{1,3}$", r"\d", '^["\\\\]*$', "^(x|yz)+$"]).map(
        lambda text: {"pattern": text, "type": "string"}
    ),
    st.lists(st.none() | st.booleans() | st.integers(0, 9) | st.text('ab"\\', max_size=3), min_size=1).map(
        lambda values: {"enum": values}
    ),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}, True]),
    st.just({"$ref": "#/$defs/Tree"}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        st.builds(
            lambda items, counts: counts | {"items": items},
            inner,
            bounded("minItems", "maxItems", COUNTS, type="array"),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: {"type": "array", "prefixItems": items}),
        st.lists(inner, min_size=1, max_size=3).map(lambda schemas: {"anyOf": schemas}),
        st.builds(lambda one, other: {"allOf": [one, other]}, objects(LEAVES), objects(LEAVES)),
    ),
    max_leaves=6,
)
DEFS = {
    "$defs": {
        "Tree": {"type": "object", "properties": {"sub": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}
    }
}


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(SCHEMAS.filter(lambda schema: schema is not True), st.integers(0, 2**32))
def test_every_answer_that_is_allowed_is_valid(schema, seed):
    schema = schema | DEFS
    try:
        grammar = gbnf.Grammar(answer_grammar(schema))
    except InvalidRequest:
        assert '"allOf"' in json.dumps(schema), schema  # two that contradict each other
        return
    answer = grammar.sample(random.Random(seed))
    # A format counts where it stands alone, and "allOf" may put a length beside it.
    is_valid = jsonschema_rs.Draft202012Validator(
        schema, validate_formats='"allOf"' not in json.dumps(schema)
    ).is_valid
    assert is_valid(json.loads(answer)), answer


# ---- the real engine ----


PERCENT = {"type": "integer", "minimum": 0, "maximum": 99}
MANY = [f"prop_{n}" for n in range(300)]
BIG = {
    "300 optional members": {"properties": dict.fromkeys(MANY, PERCENT)},
    "1000 words": {"enum": [f"w{n * 7919 % 100003}" for n in range(1000)]},
    "all formats": {"properties": {name: {"type": "string", "format": name} for name in FORMATS}},
    "a long text": {"type": "string", "minLength": 20, "maxLength": 100_000},
    "a long array": {"items": {"type": "number", "minimum": 0.5, "exclusiveMaximum": 2.75}, "maxItems": 1999},
    "a long pattern": {"pattern": "^[a-z ]{200,900}$"},
    "3000 members": {"properties": {f"{n:x}": {"type": "null"} for n in range(3000)}},
}
SAMPLED = {
    "an object": PERSON | {"properties": {"name": {"maxLength": 12}, "age": {"type": "integer", "maximum": 99}}},
    "a tree": TREE,
    "a date": {"properties": {"when": {"type": "string", "format": "date-time"}}, "required": ["when"]},
    "a tuple": {"prefixItems": [{"enum": ["red", "blue"]}, {"minimum": -1, "maximum": 1}], "items": False},
}


@asynccontextmanager
async def completions(folder, gguf):
    async with real_engine(folder).start(LoadSpec(str(gguf), num_ctx=512, slots=1)) as runner:

        async def complete(grammar, n_predict):
            body = {
                "prompt": "As JSON: ",
                "grammar": grammar,
                "n_predict": n_predict,
                "temperature": 1.0,
                "seed": 7,
            }
            async with exchange(runner._socket, "/completion", msgspec.json.encode(body)) as reply:
                return reply.status, msgspec.json.decode(await reply.read())

        yield complete


@pytest.mark.anyio
async def test_llama_cpp_takes_every_grammar_and_keeps_to_it(short_tmp, smollm2_gguf):
    frame = ThinkingFrame("<think>", "</think>")
    async with completions(short_tmp, smollm2_gguf) as complete:
        for name, schema in {**{name: case[0] for name, case in CASES.items()}, **BIG}.items():
            status, reply = await complete(answer_grammar(schema, frame), 2)
            assert status == 200, (name, reply)
        for name, schema in SAMPLED.items():
            status, reply = await complete(answer_grammar(schema), 200)
            assert validator(schema)(json.loads(reply["content"])), (name, reply["content"])
        status, reply = await complete("root ::= nothing", 2)
        assert status == 400
