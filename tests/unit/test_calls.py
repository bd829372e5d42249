"""A call that must be: what a model can write then, and what tools are refused."""

import json
import logging
import random

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import InvalidRequest
from a3s_power.grammar.calls import call_grammar
from a3s_power.grammar.gbnf import ThinkingFrame
from tests.support import gbnf


def tool(name, parameters=None, **fields):
    function = {"name": name, "parameters": parameters, **fields}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def grammar_of(*tools, thinking=None):
    return gbnf.Grammar(call_grammar(tools).text(thinking))


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = tool("get_weather", CITY)


@pytest.mark.parametrize(
    ("tools", "allowed", "forbidden"),
    [
        (
            [WEATHER],
            [
                '{"name": "get_weather", "arguments": {"city":"Oslo"}}',
                '{"name": "get_weather", "arguments": {"city": "O\\"slo é"}}',
                ' {"name": "get_weather", "arguments": {"city": "Oslo"}}',
            ],
            [
                "",
                "Hello",
                '{"name":"get_weather", "arguments": {"city": "Oslo"}}',  # spelled in one way
                '{"name": "get_weather", "arguments":{"city": "Oslo"}}',
                '{"name": "get_weather", "arguments": {"city": "Oslo"} }',
                '{"name": "get_weather", "parameters": {"city": "Oslo"}}',
                '{"name": "get_weathers", "arguments": {"city": "Oslo"}}',
                '{"name": "get_weather", "arguments": {}}',
                '{"name": "get_weather", "arguments": {"city": 5}}',
                '{"name": "get_weather", "arguments": {"city": "Oslo", "x": 1}}',
                '{"name": "get_weather", "arguments": "{}"}',
                '{"name": "get_weather", "arguments": {"city": "Oslo"}}{"name": "get_weather", "arguments": {"city": "Oslo"}}',
            ],
        ),
        # Each tool has its own arguments, and names may begin alike.
        (
            [WEATHER, tool("get", {"properties": {"n": {"type": "null"}}, "required": ["n"]}), tool("g")],
            [
                '{"name": "get_weather", "arguments": {"city": "Oslo"}}',
                '{"name": "get", "arguments": {"n": null}}',
                '{"name": "g", "arguments": {"any": [1]}}',
            ],
            [
                '{"name": "get", "arguments": {"city": "Oslo"}}',
                '{"name": "get_weather", "arguments": {"n": null}}',
                '{"name": "get_", "arguments": {"n": null}}',
                '{"name": "ge", "arguments": {"any": [1]}}',
                '{"name": "", "arguments": {"any": [1]}}',
            ],
        ),
        # Names are what JSON makes of them.
        (
            [tool('a"b\\\n'), tool("é🙂")],
            ['{"name": "a\\"b\\\\\\n", "arguments": {}}', '{"name": "é🙂", "arguments": {}}'],
            ['{"name": "a"b\\\n", "arguments": {}}', '{"name": "\\u00e9🙂", "arguments": {}}'],
        ),
        # Where parameters are not listed there may be any, where none are listed there are none.
        *(
            ([tool("f", parameters)], ['{"name": "f", "arguments": {}}', '{"name": "f", "arguments": {"a": {"b": 1}}}'],
             ['{"name": "f", "arguments": []}', '{"name": "f", "arguments": null}'])
            for parameters in (None, {}, {"type": "object"}, {"properties": {}, "additionalProperties": True}, {"type": ["object", "null"]})
        ),
        (
            [tool("f", {"type": "object", "properties": {}})],
            ['{"name": "f", "arguments": {}}'],
            ['{"name": "f", "arguments": {"a": 1}}'],
        ),
        # Arguments are an object whatever the schema forgets to say.
        (
            [tool("f", {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/A"}], "$defs": {"A": CITY}})],
            ['{"name": "f", "arguments": {"city": "Oslo"}}'],
            ['{"name": "f", "arguments": 5}', '{"name": "f", "arguments": {}}'],
        ),
    ],
)  # fmt: skip
def test_one_call_of_one_of_the_tools_and_nothing_else(tools, allowed, forbidden):
    grammar = grammar_of(*tools)
    assert [text for text in allowed if not grammar.allows(text)] == []
    assert [text for text in forbidden if grammar.allows(text)] == []


def test_the_call_may_stand_behind_thoughts():
    call = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
    grammar = grammar_of(WEATHER, thinking=ThinkingFrame("<think>", "</think>"))
    assert grammar.allows(call)
    assert grammar.allows(f'<think>{{"name": "x"}}</think>\n\n{call}')
    assert not grammar.allows("<think>Hm.</think>\n\nHello")
    assert not grammar.allows(f"Hm.</think>{call}")
    assert grammar_of(WEATHER, thinking=ThinkingFrame("<think>", "</think>", is_inside=True)).allows(
        f"Hm.</think>{call}"
    )


CANNOT = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"not": {}}}}


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (CANNOT, '"not" at $.properties.b cannot be expressed'),
        ({"type": "array"}, "no value can satisfy the schema at $"),
        ({"type": "nonsense"}, '"type" at $ must be one or more of '),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, '"$ref" at $.properties.a points at nothing: #/nowhere'),
    ],
)
def test_a_strict_tool_that_cannot_be_kept_is_refused_and_another_may_be_given_anything(
    parameters, reason, caplog
):
    with pytest.raises(InvalidRequest) as refused:
        call_grammar([WEATHER, tool("f", parameters, strict=True)])
    assert str(refused.value).startswith(f'tool "f" cannot be strict: {reason}')
    with caplog.at_level(logging.INFO):
        grammar = grammar_of(tool("f", parameters), WEATHER)
    (record,) = caplog.records
    assert (record.tool, record.why.startswith(reason)) == ("f", True)
    assert grammar.allows('{"name": "f", "arguments": {"a": 1}}')
    assert not grammar.allows('{"name": "get_weather", "arguments": {"a": 1}}')  # the others are kept


def test_tools_for_which_there_is_no_room_may_be_given_anything():
    wide = {"properties": {f"property {n} {'x' * 100}": {"type": "string"} for n in range(1000)}}
    tools = [tool(f"f{n}", wide | {"title": str(n)}) for n in range(20)]
    text = call_grammar(tools).text()
    assert len(text) < 1024 * 1024
    grammar = gbnf.Grammar(text)
    assert not grammar.allows('{"name": "f0", "arguments": {"a": 1}}')
    assert grammar.allows('{"name": "f19", "arguments": {"a": 1}}')


def test_of_a_hundred_tools_that_begin_alike_few_are_followed_at_a_time():
    grammar = grammar_of(*(tool(f"mcp__server__tool_{n}", CITY) for n in range(100)))
    assert grammar.most_readings('{"name": "mcp__server__tool_42", "arguments": {"city":"Oslo"}}') <= 2


NAMES = st.lists(st.text(max_size=5).filter(lambda name: name and name.isprintable()), min_size=1, max_size=8)


@given(NAMES, st.integers())
def test_whatever_tools_are_called_what_is_allowed_is_a_call_of_one(names, seed):
    tools = [tool(name, CITY) for name in names]
    call = json.loads(grammar_of(*tools).sample(random.Random(seed)))
    assert list(call) == ["name", "arguments"]
    assert call["name"] in names
    assert jsonschema_rs.Draft202012Validator(CITY).is_valid(call["arguments"])
    for name in names:
        spelled = json.dumps(name, ensure_ascii=False)
        assert grammar_of(*tools).allows(f'{{"name": {spelled}, "arguments": {{"city":"Oslo"}}}}')
