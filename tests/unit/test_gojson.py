"""What Go's `encoding/json` accepts we accept, and what it refuses we refuse in its words."""

import json
import math
import string
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from a3s_power.wire.gojson import GoJSONError, GoStruct, Int, decode, encode
from a3s_power.wire.goscan import MAX_DEPTH, nests_too_deep

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1, extra={"go": "int32"})]
ImageData = Annotated[str, Meta(extra={"go": "api.ImageData"})]


class Message(GoStruct):
    role: str | None = None
    content: str | None = None
    images: list[ImageData] | None = None


class ChatRequest(GoStruct):
    model: str | None = None
    messages: list[Message] | None = None
    stream: bool | None = None
    top_logprobs: Int | None = None
    context: list[Int] | None = None
    threads: Int32 | None = None
    score: float | None = None
    scores: list[float] | None = None
    stop: list[str] | None = None
    options: dict[str, Any] | None = None
    labels: dict[str, str] | None = None
    last: Message | None = None
    keep_alive: Any = None
    debug: bool | None = msgspec.field(name="_debug_render_only", default=None)


class Node(GoStruct):
    items: "Node | None" = None


class Response(GoStruct):
    go_package = "openai"
    error: str = "none"


def outcome(body: bytes) -> object:
    try:
        return decode(body, ChatRequest)
    except GoJSONError as exc:
        return str(exc)


def refused(body: bytes, shape: Any = ChatRequest) -> str:
    with pytest.raises(GoJSONError) as caught:
        decode(body, shape)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (rb'{"model":"m","top_logprobs":3,"score":1}', ChatRequest(model="m", top_logprobs=3, score=1.0)),
        (rb"null", ChatRequest()),
        (rb" {} ", ChatRequest()),
        (rb'{"model":"m"}{"model":"n"}', ChatRequest(model="m")),  # the first value only
        (rb"{} trailing", ChatRequest()),
        (rb'{"model":"m","nope":[{"deep":1e999}]}', ChatRequest(model="m")),
        (rb'{"messages":[{"content":"c","nope":1}]}', ChatRequest(messages=[Message(content="c")])),
        (rb'{"Model":"m","MESSAGES":[{"Role":"u"}]}', ChatRequest(model="m", messages=[Message(role="u")])),
        ('{"meſſages":[],"ſtream":true}'.encode(), ChatRequest(messages=[], stream=True)),
        ('{"meßages":[]}'.encode(), ChatRequest()),  # Go folds rune by rune
        (rb'{"_DEBUG_render_only":true,"debug":false}', ChatRequest(debug=True)),
        (rb'{"model":"a","model":"b"}', ChatRequest(model="b")),
        (rb'{"model":"a","Model":"b"}', ChatRequest(model="b")),
        (rb'{"model":null,"top_logprobs":null,"messages":null,"keep_alive":null}', ChatRequest()),
        (rb'{"stop":["a",null],"messages":[null]}', ChatRequest(stop=["a", ""], messages=[Message()])),
        (rb'{"context":[null],"labels":{"a":null}}', ChatRequest(context=[0], labels={"a": ""})),
        (rb'{"options":{"a":1,"b":1.0,"c":[{"d":null}],"A":1e2}}x',
         ChatRequest(options={"a": 1, "b": 1.0, "c": [{"d": None}], "A": 100.0})),
        (rb'{"keep_alive":"5m"}', ChatRequest(keep_alive="5m")),
        (rb'{"keep_alive":[{}, []]}x', ChatRequest(keep_alive=[{}, []])),
        (rb'{"model":"\ud83d\ude00\u00e9\/"}x', ChatRequest(model="😀é/")),
        (rb'{"model":"a\ud800b"}', ChatRequest(model="a\ufffdb")),
        (rb'{"model":"\ud83d\ud83d\ude00\udc00"}', ChatRequest(model="\ufffd😀\ufffd")),
        (b'{"model":"a\xffb"}', ChatRequest(model="a\ufffdb")),
        (b'{"model":"\xe2\x82"}', ChatRequest(model="\ufffd\ufffd")),  # one for each byte
        (b'{"model":"\xed\xa0\x80"}', ChatRequest(model="\ufffd" * 3)),
        (b'{"model":"\\ud83d\x80"}', ChatRequest(model="\ufffd\ufffd")),
        (b'{"options":{"\xff":1}}', ChatRequest(options={"\ufffd": 1})),
        (rb'{"top_logprobs":9223372036854775807}', ChatRequest(top_logprobs=2**63 - 1)),
        (rb'{"top_logprobs":-9223372036854775808}x', ChatRequest(top_logprobs=-(2**63))),
        (rb'{"top_logprobs":-0}x', ChatRequest(top_logprobs=0)),
        (rb'{"score":99999999999999999999}x', ChatRequest(score=1e20)),
        (rb'{"score":1e-400}x', ChatRequest(score=0.0)),
    ],
)  # fmt: skip
def test_a_body_is_read_as_go_reads_it(body, expected):
    assert decode(body, ChatRequest) == expected


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "EOF"),
        (b" \n\t\r", "EOF"),
        (b'{"model":', "unexpected EOF"),
        (b"{", "unexpected EOF"),
        (b'{"model', "unexpected EOF"),
        (b'{"model\\', "unexpected EOF"),
        (b'{"model\\u00', "unexpected EOF"),
        (b'{"a":tru', "unexpected EOF"),
        (b'{"a":-', "unexpected EOF"),
        (b'{"a":1.', "unexpected EOF"),
        (b'{"a":1e+', "unexpected EOF"),
        (b"hello", "invalid character 'h' looking for beginning of value"),
        (b"{,}", "invalid character ',' looking for beginning of object key string"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"{a:1}", "invalid character 'a' looking for beginning of object key string"),
        (b'{"a" x', "invalid character 'x' after object key"),
        (b'{"a":1 x', "invalid character 'x' after object key:value pair"),
        (b'{"a":1]', "invalid character ']' after object key:value pair"),
        (b"[1 x", "invalid character 'x' after array element"),
        (b"[1}", "invalid character '}' after array element"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b"[01]", "invalid character '1' after array element"),
        (b"[1.5.2]", "invalid character '.' after array element"),
        (b"[1e5e]", "invalid character 'e' after array element"),
        (b"[txue]", "invalid character 'x' in literal true (expecting 'r')"),
        (b"[falsy]", "invalid character 'y' in literal false (expecting 'e')"),
        (b"[nil]", "invalid character 'i' in literal null (expecting 'u')"),
        (b'["a\nb"]', r"invalid character '\n' in string literal"),
        (b'{"a\x00', r"invalid character '\x00' in string literal"),
        (rb'["\x"]', "invalid character 'x' in string escape code"),
        (rb'["\u00g0"]', r"invalid character 'g' in \u hexadecimal character escape"),
        (rb'["\u00"]', "invalid character '\"' in \\u hexadecimal character escape"),
        (b"[-x]", "invalid character 'x' in numeric literal"),
        (b"[-.5]", "invalid character '.' in numeric literal"),
        (b"[+1]", "invalid character '+' looking for beginning of value"),
        (b"[1.]", "invalid character ']' after decimal point in numeric literal"),
        (b"[1.e5]", "invalid character 'e' after decimal point in numeric literal"),
        (b"[1ex]", "invalid character 'x' in exponent of numeric literal"),
        (b"[1.5e-x]", "invalid character 'x' in exponent of numeric literal"),
        (b"'", r"invalid character '\'' looking for beginning of value"),
        (b"\\", r"invalid character '\\' looking for beginning of value"),
        (b"\x0b", r"invalid character '\v' looking for beginning of value"),
        (b"\x7f", r"invalid character '\x7f' looking for beginning of value"),
        (b"\x80", r"invalid character '\u0080' looking for beginning of value"),
        (b"\xa0", r"invalid character '\u00a0' looking for beginning of value"),
        ("é".encode(), "invalid character 'Ã' looking for beginning of value"),  # Go looks at bytes
        (b"\xef\xbb\xbf{}", "invalid character 'ï' looking for beginning of value"),
        (b'{"model":1, "a":x}', "invalid character 'x' looking for beginning of value"),  # syntax comes first
    ],
)
def test_bad_syntax_is_refused_in_the_words_of_gos_scanner(body, text):
    assert refused(body) == text


FIELD = "json: cannot unmarshal {} into Go struct field ChatRequest.{} of type {}"


@pytest.mark.parametrize(
    ("body", "found", "field", "go_type"),
    [
        (b'{"model":1}', "number", "model", "string"),
        (b'{"model":true}', "bool", "model", "string"),
        (b'{"Model":{}}', "object", "model", "string"),
        (b'{"messages":"x"}', "string", "messages", "[]api.Message"),
        (b'{"messages":["x"]}', "string", "messages", "api.Message"),
        (b'{"messages":[{"content":[{"type":"text"}]}]}', "array", "messages.content", "string"),
        (b'{"last":{"role":false}}', "bool", "last.role", "string"),
        (b'{"messages":[{"images":[1]}]}', "number", "messages.images", "api.ImageData"),
        (b'{"messages":[{"images":1}]}', "number", "messages.images", "[]api.ImageData"),
        (b'{"stream":"yes"}', "string", "stream", "bool"),
        (b'{"stream":1.5}', "number", "stream", "bool"),
        (b'{"top_logprobs":"3"}', "string", "top_logprobs", "int"),
        (b'{"top_logprobs":true}', "bool", "top_logprobs", "int"),
        (b'{"top_logprobs":3.0}', "number 3.0", "top_logprobs", "int"),
        (b'{"top_logprobs":1e2}', "number 1e2", "top_logprobs", "int"),
        (b'{"top_logprobs":9223372036854775808}', "number 9223372036854775808", "top_logprobs", "int"),
        (b'{"top_logprobs":99999999999999999999}', "number 99999999999999999999", "top_logprobs", "int"),
        (b'{"context":[1,2.5]}', "number 2.5", "context", "int"),
        (b'{"threads":2147483648}', "number 2147483648", "threads", "int32"),
        (b'{"score":"1"}', "string", "score", "float64"),
        (b'{"score":1e400}', "number 1e400", "score", "float64"),
        (b'{"scores":[[]]}', "array", "scores", "float64"),
        (b'{"options":[]}', "array", "options", "map[string]interface {}"),
        (b'{"options":{"x":[1e400]}}', "number 1e400", "options", "float64"),
        (b'{"labels":{"x":1}}', "number", "labels", "string"),
        (b'{"keep_alive":-1e400}', "number -1e400", "keep_alive", "float64"),
        (b'{"_debug_render_only":1}', "number", "_debug_render_only", "bool"),
        (b'{"model":1,"stream":2}', "number", "model", "string"),  # the first of several
        (b'{"model":1,"model":"x"}', "number", "model", "string"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_path(body, found, field, go_type):
    assert refused(body) == FIELD.format(found, field, go_type)


@pytest.mark.parametrize(
    ("body", "shape", "text"),
    [
        (b"[]", ChatRequest, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (b"[]", Response, "json: cannot unmarshal array into Go value of type openai.Response"),
        (
            b'"x"',
            dict[str, Any],
            "json: cannot unmarshal string into Go value of type map[string]interface {}",
        ),
        (b'{"a":1e999}', Any, "json: cannot unmarshal number 1e999 into Go value of type float64"),
    ],
)
def test_a_whole_value_of_the_wrong_type_is_named_with_its_type(body, shape, text):
    assert refused(body, shape) == text


@pytest.mark.parametrize("body", [b'{"error":null}', b'{"error":null} x', b"{}", b"null"])
def test_null_and_absent_both_leave_the_default(body):
    assert decode(body, Response) == Response(error="none")


def nested(depth: int) -> bytes:
    return b'{"keep_alive":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("depth", [2, 500, MAX_DEPTH])
def test_nesting_is_allowed_to_the_limit(depth):
    value = decode(nested(depth), ChatRequest).keep_alive
    for _ in range(depth - 2):
        (value,) = value
    assert value == []


@pytest.mark.parametrize(
    "body", [nested(MAX_DEPTH + 1), nested(100_000), b"[" * 100_000, b"{" + b'"a":{' * 100_000]
)
def test_nesting_ends_at_the_limit(body):
    assert "exceeded max depth" in refused(body)


def test_a_struct_inside_itself_is_refused_before_the_stack_overflows():
    assert "exceeded max depth" in refused(b'{"Items":' * 990 + b"{}" + b"}" * 990, Node)


def test_depth_is_not_mistaken_for_breadth_or_for_brackets_in_text():
    assert not nests_too_deep(b"[" + b"[]," * 5000 + b'"' + b'{[\\"' * 5000 + b'"]')
    assert nests_too_deep(nested(MAX_DEPTH + 1))
    assert not nests_too_deep(nested(MAX_DEPTH))


class Plain(msgspec.Struct):
    model: str | None = None


class UnboundedInt(GoStruct):
    n: int | None = None


class Required(GoStruct):
    model: str


class NullIsNotAbsent(GoStruct):
    stream: bool | None = True


class TrueUnion(GoStruct):
    input: str | list[str] | None = None


class Nested(GoStruct):
    parts: list[Plain] | None = None


@pytest.mark.parametrize("shape", [Plain, UnboundedInt, Required, NullIsNotAbsent, TrueUnion, Nested])
def test_a_shape_that_msgspec_and_go_would_read_differently_is_refused_at_first_use(shape):
    with pytest.raises(TypeError):
        decode(b"{}", shape)


# --- the two paths agree -------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats(-(2**53), 2**53)  # larger ones read back as int
values = st.recursive(
    scalars | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
messages = st.fixed_dictionaries({}, optional={"role": values, "content": st.text(), "images": values})
requests = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(ChatRequest.__struct_encode_fields__, values)
    | {"messages": st.lists(messages, max_size=3), "top_logprobs": st.integers(), "model": st.text()},
)


@given(request=requests, ascii_only=st.booleans())
@example(request={"options": {"x": 10**17}}, ascii_only=True)
def test_the_fast_path_and_the_slow_path_agree(request, ascii_only):
    body = json.dumps(request, ensure_ascii=ascii_only).encode()
    assert outcome(body) == outcome(body + b" trailing data takes the slow path")


@given(request=requests, cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_body_is_an_unexpected_eof(request, cut):
    body = json.dumps(request).encode()
    assert outcome(body[: int(len(body) * cut)]) in {"EOF", "unexpected EOF"}


TOKENS = [
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    '"',
    '"a"',
    "\\",
    "\\u00",
    "e",
    "E5",
    "-",
    "+",
    ".",
    "0",
    "1",
    "true",
    "nul",
    " ",
]


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map("".join))
@settings(max_examples=500)
def test_the_grammar_is_that_of_json(text):
    body = f"[{text}]"
    try:
        expected = json.JSONDecoder().raw_decode(body)[0]
    except json.JSONDecodeError:
        refused(body.encode(), Any)
        return
    if math.inf in map(abs, filter(lambda item: isinstance(item, float), expected)):
        assert "cannot unmarshal number" in refused(body.encode() + b"x", Any)
    else:
        assert decode(body.encode() + b"x", Any) == expected


@given(st.binary(max_size=64) | st.binary(max_size=32).map(lambda junk: b'{"model":"' + junk))
def test_no_bytes_raise_anything_but_our_error(body):
    outcome(body)


def test_a_large_hostile_body_takes_linear_time():
    size = 2_000_000
    assert refused(b'["' + rb"\n" * size) == "unexpected EOF"
    assert refused(b"[" + b"1" * size) == "unexpected EOF"
    assert refused(b" " * size) == "EOF"


# --- encode --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, None, True, "x"]}, '{"a":[1,null,true,"x"]}'),
        ("<a&b>\u2028\u2029é😀", r'"\u003ca\u0026b\u003e\u2028\u2029é😀"'),
        ('\b\f\n\r\t\x00\x1f\x7f"\\/', '"\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\\"\\\\/"'),
        ([1.0, 100.0, 0.5, -0.0, 0.0, 1e6], "[1,100,0.5,-0,0,1000000]"),
        ([1e15, 1e16, 1.5e17, 1e20, 123456789012345680000.0], "[1000000000000000,10000000000000000,"
         "150000000000000000,100000000000000000000,123456789012345680000]"),
        ([1e21, 1.5e22, 1e300], "[1e+21,1.5e+22,1e+300]"),
        ([1e-4, 1e-5, 1.5e-6, 1e-6], "[0.0001,0.00001,0.0000015,0.000001]"),
        ([9.99e-7, 1e-7, -1e-10, 5e-324], "[9.99e-7,1e-7,-1e-10,5e-324]"),
        ({"1.0": "2.0 \\\" 1e16", "n": 3.0}, '{"1.0":"2.0 \\\\\\" 1e16","n":3}'),
        (Message(role="user"), '{"role":"user"}'),
    ],
)  # fmt: skip
def test_values_are_written_as_go_writes_them(value, text):
    assert encode(value).decode() == text


@given(values)
def test_what_is_written_reads_back(value):
    assert json.loads(encode(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back_and_has_an_exponent_only_outside_gos_range(value):
    text = encode([value])[1:-1].decode()
    assert float(text) == value
    assert ("e" in text) == (value != 0 and not 1e-6 <= abs(value) < 1e21)
    assert set(text) <= set(string.digits + "+-.e")


def test_what_json_cannot_say_is_null():
    assert encode([math.nan, math.inf]) == b"[null,null]"
