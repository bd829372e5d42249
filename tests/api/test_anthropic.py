"""/v1/messages, asked by Anthropic's own client: requests, replies, and streams put together again."""

import base64
import json
import re
from typing import Any

import anthropic
import httpx2
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from a3s_power.api.anthropic import reading
from a3s_power.api.anthropic.content import conversation
from a3s_power.api.anthropic.errors import anthropic as dialect
from a3s_power.api.anthropic.estimate import estimated_tokens
from a3s_power.api.anthropic.replies import Asked, whole
from a3s_power.api.anthropic.stream import MessageStream
from a3s_power.api.sse import event_frame
from a3s_power.errors import AppError, ContextExceeded, InvalidRequest
from a3s_power.generation import (
    CallPart,
    ChatInput,
    Done,
    FinishReason,
    Text,
    Thinking,
    ToolCalls,
    ToolChoice,
    Usage,
)
from a3s_power.messages import Message, ToolCall
from a3s_power.units import FOREVER
from a3s_power.wire import anthropic as wire
from a3s_power.wire.gojson import decode, encode
from tests.api.test_faults import open_streams, send_request
from tests.api.test_prompt_paths import FORCED_THINKING
from tests.conftest import ServerMaker
from tests.support.api import CHAT_TEMPLATE, tiny_gguf, until
from tests.support.templates import with_chat_template

PNG = b"\x89PNG"
HI = [{"role": "user", "content": "Hi"}]
GREEDY = {"temperature": 0}
"""A field that the newest of Anthropic's models, and so its client, do without."""
GO_TEMPLATE = (
    "{{ range .Messages }}{{ .Content }}{{ range .ToolCalls }}{{ .Function.Arguments }}{{ end }}{{ end }}"
)
WEATHER = {"name": "get_weather", "description": "", "input_schema": {"type": "object", "properties": {}}}


def client_of(api) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=api.server.url, api_key="any", max_retries=0)


@pytest.fixture
def client(real):
    with client_of(real) as client:
        yield client


@pytest.fixture(scope="module")
def puppet(tmp_path_factory):
    """A server whose engine does as the last message says; the model `able` has tools and thoughts."""
    folder = tmp_path_factory.mktemp("puppet")
    with ServerMaker(folder) as make:
        api = make()
        template = CHAT_TEMPLATE + "{# tools <think> </think> #}"
        api.create("able", tiny_gguf(folder / "able.gguf", chat_template=template))
        yield api


def ask(content: str, **fields: Any) -> dict[str, Any]:
    """What the client is to send: the scripted engine does as the last message says."""
    messages = [{"role": "user", "content": content}]
    return {"model": "able", "max_tokens": 100, "messages": messages, **fields}


def raw(*deltas: dict[str, Any], finish: str = "stop") -> str:
    """A chat's stream of these deltas, for the scripted engine."""
    chunks = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    ending = {"choices": [{"delta": {}, "finish_reason": finish}]}
    last = {"choices": [], "usage": {}, "timings": {"cache_n": 2, "prompt_n": 5, "predicted_n": 9}}
    return "raw:" + json.dumps([*chunks, ending, last])


def call(index: int, arguments: str, **first: str) -> dict[str, Any]:
    """A delta with a piece of a call; the first has its `id` and `name`."""
    function = {"arguments": arguments} | ({"name": first["name"]} if first else {})
    return {"tool_calls": [{"index": index, "function": function} | ({"id": first["id"]} if first else {})]}


# ---- what a request means ----


def told(*turns: tuple[str, Any], system: Any = None) -> list[Message]:
    return list(conversation(system, [wire.MessageParam(role, content) for role, content in turns]))


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def image(data: bytes = PNG) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}
    return {"type": "image", "source": source}


USE = {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": "it"}}
LOOK = ToolCall("look", {"at": "it"}, "call_1")


def result(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "call_1", "content": content, **more}


@pytest.mark.parametrize(
    "turns, system, expected",
    [
        ([("user", "Hi")], None, [Message("user", "Hi")]),
        ([("USER", "Hi")], "Be brief.", [Message("system", "Be brief."), Message("user", "Hi")]),
        ([("user", "Hi")], "", [Message("user", "Hi")]),
        ([("user", "Hi")], [text("a", cache_control={"type": "ephemeral"}), image(), text("b")],
         [Message("system", "ab"), Message("user", "Hi")]),
        ([("user", [text("a"), text("b", citations=[]), {"type": "text", "text": "c", "new": 1}])], None,
         [Message("user", "abc")]),
        ([("user", [text("see"), image()])], None, [Message("user", "see", images=(PNG,))]),
        ([("assistant", [{"type": "thinking", "thinking": "no", "signature": "x"},
                         {"type": "thinking", "thinking": "hm"}, text("a")])], None,
         [Message("assistant", "a", "hm")]),
        ([("assistant", [text("a"), USE, {**USE, "id": "call_2", "input": None}])], None,
         [Message("assistant", "a", tool_calls=(LOOK, ToolCall("look", {}, "call_2", 1)))]),
        ([("assistant", [USE]), ("user", [text("and?"), result("wet"), result()])], None,
         [Message("assistant", tool_calls=(LOOK,)),
          Message("tool", "wet", tool_name="look", tool_call_id="call_1"),
          Message("tool", tool_name="look", tool_call_id="call_1"),
          Message("user", "and?")]),
        ([("user", [result([text("a"), image(), text("b"), {"type": "tool_reference"}], is_error=True)])], None,
         [Message("tool", "ab", images=(PNG,), tool_call_id="call_1")]),
        ([("assistant", [{**USE, "type": "server_tool_use"}, text("so"),
                         {"type": "web_search_tool_result", "tool_use_id": "call_1",
                          "content": [{"title": "T", "url": "U", "encrypted_content": "x"}, 5]}])], None,
         [Message("assistant", "so", tool_calls=(LOOK,)),
          Message("tool", "T: U", tool_name="look", tool_call_id="call_1")]),
        ([("assistant", [{"type": "web_search_tool_result", "tool_use_id": "x",
                          "content": {"error_code": "too_many"}}])], None,
         [Message("tool", "error: too_many", tool_call_id="x")]),
        ([("user", [{"type": "document", "source": 5}, {"type": "redacted_thinking"}])], None, [Message("user")]),
        ([("user", [])], None, [Message("user")]),
    ],
)  # fmt: skip
def test_blocks_become_messages(turns, system, expected):
    assert told(*turns, system=system) == expected


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "unexpected end of JSON input"),
        (5, "json: cannot unmarshal number into Go value of type []anthropic.ContentBlock"),
        ([5], "json: cannot unmarshal number into Go value of type anthropic.ContentBlock"),
        ([text(5)], "json: cannot unmarshal number into Go struct field ContentBlock.text of type string"),
        ([{"type": "image"}], "invalid image source"),
        ([{"type": "image", "source": {"type": "url"}}],
         "invalid image source type: url. Only base64 images are supported."),
        ([{"type": "image", "source": {"type": "base64", "data": "a!"}}],
         "invalid base64 image data: illegal base64 data at input byte 1"),
        ([{**USE, "name": ""}], "tool_use block missing required 'name' field"),
        ([{**USE, "input": []}], "tool_use block has an 'input' that is not an object"),
        ([result([{"type": "image", "source": {"type": "url"}}])], "invalid tool_result image source"),
        ([result([{"type": "image"}])], "invalid tool_result image source"),
    ],
)  # fmt: skip
def test_blocks_that_are_none_are_refused(content, said):
    with pytest.raises(InvalidRequest) as refused:
        told(("user", content))
    assert str(refused.value) == said


def body(shape=wire.MessagesRequest, **fields: Any):
    return decode(json.dumps({"model": "m", "max_tokens": 9, "messages": HI, **fields}).encode(), shape)


def tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [{**WEATHER, **fields}]}


CHOOSING = {**tool(), "tool_choice": {}}


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"temperature": 0.5, "top_p": 0, "top_k": 3, "stop_sequences": ["x"]},
         {"options": {"num_predict": 9, "temperature": 0.5, "top_p": 0, "top_k": 3, "stop": ["x"]}}),
        ({"options": {"num_ctx": 64, "num_predict": 1, "top_k": 5}},
         {"options": {"num_ctx": 64, "num_predict": 9, "top_k": 5}}),
        ({"keep_alive": -1}, {"keep_alive_s": FOREVER}),
        ({"metadata": {"user_id": "x"}, "service_tier": "auto", "new_thing": [1]}, {"options": {"num_predict": 9}}),
        ({}, {"think": None, "thinking_budget": None, "tool_choice": ToolChoice(), "may_truncate": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, {"think": True, "thinking_budget": 50}),
        ({"thinking": {"type": "enabled"}}, {"think": True, "thinking_budget": None}),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, {"think": False}),
        ({"thinking": {"type": "adaptive"}}, {"think": None}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": " XHigh "}}, {"think": "high"}),
        ({"output_config": {"effort": "max"}}, {"think": "max"}),
        ({"output_config": {"effort": "utter"}}, {"think": None}),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
         {"output_format": {"type": "object"}}),
        (CHOOSING | {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
         {"tool_choice": ToolChoice(is_parallel=False)}),
        (CHOOSING | {"tool_choice": {"type": "any"}}, {"tool_choice": ToolChoice(is_required=True)}),
        (CHOOSING | {"tool_choice": {"type": "tool", "name": "get_weather"}},
         {"tool_choice": ToolChoice(is_required=True, name="get_weather")}),
        ({"tool_choice": {"type": "none"}}, {"tool_choice": ToolChoice(is_allowed=False)}),
        (tool(type="custom"), {"input": ChatInput((Message("user", "Hi"),), [{
            "type": "function",
            "function": {"name": "get_weather", "description": "", "parameters": WEATHER["input_schema"]}}])}),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]},
         {"input": ChatInput((Message("user", "Hi"),), [{"type": "function", "function": {"name": "bash"}}])}),
    ],
)  # fmt: skip
def test_fields_mean_what_they_mean_with_us(fields, expected):
    wanted = reading.generation(body(**fields))
    assert {name: getattr(wanted, name) for name in expected} == expected


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"model": "", "max_tokens": 0, "messages": []}, "model is required"),
        ({"max_tokens": None, "messages": []}, "max_tokens is required and must be positive"),
        ({"max_tokens": -1, "messages": []}, "max_tokens is required and must be positive"),
        ({"messages": [], "model": "bad name!"}, "messages is required"),
        ({"messages": [{"role": "user"}], "model": "bad name!"}, "unexpected end of JSON input"),
        ({"model": "bad name!"}, "invalid model name"),
        ({"system": 5}, "json: cannot unmarshal number into Go value of type []anthropic.ContentBlock"),
        (tool(input_schema="x"), 'invalid input_schema for tool "get_weather": it must be an object'),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
         "ollama cloud is disabled: web search is unavailable"),
        ({"tools": [{"type": "web_fetch_20250910"}]}, "ollama cloud is disabled: web fetch is unavailable"),
        (CHOOSING, 'tool_choice.type: "" is none of "auto", "any", "tool", "none"'),
        (CHOOSING | {"tool_choice": {"type": "must"}},
         'tool_choice.type: "must" is none of "auto", "any", "tool", "none"'),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens must not be negative"),
        ({"output_config": {"format": {"type": "xml"}}}, 'output_config.format.type: "xml" is not "json_schema"'),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema must be an object"),
    ],
)  # fmt: skip
def test_requests_that_make_no_sense_are_refused_by_name(fields, said):
    with pytest.raises(AppError) as refused:
        reading.generation(body(**fields))
    assert str(refused.value) == said


def test_what_is_counted_is_the_prompt_of_the_same_body():
    fields = {"system": "Be brief.", **tool(), "thinking": {"type": "enabled", "budget_tokens": 50}}
    wanted, counted = reading.generation(body(**fields)), reading.prompt(body(wire.CountTokensRequest, **fields))
    assert (counted.input, counted.think, counted.name) == (wanted.input, wanted.think, wanted.name)


@pytest.mark.parametrize(
    "messages, tools, tokens",
    [
        ([Message("user", "a")], [], 1),
        ([Message("user", "a" * 396)], [], 100),
        ([Message("user", "ä" * 198)], [], 100),
        ([Message("user", "a", thinking="b" * 395)], [], 100),
        ([Message("user", "a" * 396)], [{"a": 1}], 101),
    ],
)
def test_a_prompt_is_guessed_at_by_its_bytes(messages, tools, tokens):
    assert estimated_tokens(ChatInput(tuple(messages), tools)) == tokens


# ---- what a stream tells ----

FIRST, SECOND = CallPart(0, "", "call_1", "f"), CallPart(1, "{}", "call_2", "g")
WHOLE = ToolCalls((ToolCall("f", {"a": 1}, "call_1", 0),))
BOTH = ToolCalls((*WHOLE.calls, ToolCall("g", {}, "call_2", 1)))
STOP, LENGTH = Done(FinishReason.STOP), Done(FinishReason.LENGTH)


def told_of(*events: Any, stop_sequences: tuple[str, ...] = ()) -> list[wire.StreamEvent]:
    stream = MessageStream(Asked("m", stop_sequences), estimate=7)
    return [each for event in events for each in stream.tell(event)]


def in_short(event: wire.StreamEvent) -> str:
    """`+0 text`, `0 Hi`, `-0`, `end_turn`"""
    match event:
        case wire.BlockStart(index, wire.ToolUseBlock(call_id, name)):
            return f"+{index} {call_id} {name}"
        case wire.BlockStart(index, block):
            return f"+{index} {block.__struct_config__.tag}"
        case wire.BlockDelta(index, wire.TextDelta(said) | wire.ThinkingDelta(said) | wire.InputDelta(said)):
            return f"{index} {said}"
        case wire.BlockStop(index):
            return f"-{index}"
        case wire.MessageDelta(stop):
            return stop.stop_reason
    return event.name


@pytest.mark.parametrize(
    "events, expected",
    [
        ([STOP], ["end_turn"]),
        ([LENGTH], ["max_tokens"]),
        ([Text("Hi"), Text(""), Text(" you"), STOP], ["+0 text", "0 Hi", "0  you", "-0", "end_turn"]),
        ([Thinking("h"), Thinking("m"), Text("a"), LENGTH],
         ["+0 thinking", "0 h", "0 m", "-0", "+1 text", "1 a", "-1", "max_tokens"]),
        ([Text("a"), Thinking("b"), Text("c"), STOP],
         ["+0 text", "0 a", "-0", "+1 thinking", "1 b", "-1", "+2 text", "2 c", "-2", "end_turn"]),
        ([FIRST, CallPart(0, '{"a":'), CallPart(0, "1}"), WHOLE, STOP],
         ["+0 call_1 f", '0 {"a":', "0 1}", "-0", "tool_use"]),
        ([Text("so"), FIRST, CallPart(0, '{"a":1}'), Text("\n"), SECOND, BOTH, LENGTH],
         ["+0 text", "0 so", "-0", "+1 call_1 f", '1 {"a":1}', "-1", "+2 call_2 g", "2 {}", "-2", "tool_use"]),
        ([FIRST, CallPart(0, '{"a":1}'), WHOLE, Text("\n"), Text("done"), STOP],
         ["+0 call_1 f", '0 {"a":1}', "-0", "+1 text", "1 \ndone", "-1", "tool_use"]),
        ([Text(" "), Text("\n"), STOP], ["end_turn"]),
        ([Thinking("a"), Text("\n"), Thinking("b"), STOP],
         ["+0 thinking", "0 a", "-0", "+1 thinking", "1 b", "-1", "end_turn"]),
        # A call that the limit cut off is none to be answered.
        ([FIRST, CallPart(0, '{"a":'), LENGTH], ["+0 call_1 f", '0 {"a":', "-0", "max_tokens"]),
    ],
)  # fmt: skip
def test_blocks_come_one_after_the_other(events, expected):
    start, *rest, stop = told_of(*events)
    assert (start.name, stop.name) == ("message_start", "message_stop")
    assert list(map(in_short, rest)) == expected


def test_the_first_event_has_a_guess_unless_the_engine_has_told():
    done = Done(FinishReason.STOP, Usage(prompt_tokens=31, completion_tokens=2, cached_tokens=30))
    assert told_of(Text("Hi"))[0].message.usage == wire.TokenUsage(7, 0)
    start, delta, _ = told_of(done)
    assert start.message.usage == wire.TokenUsage(31, 0)
    assert delta.usage == wire.TokenUsage(31, 2)


@pytest.mark.parametrize(
    "stop_sequences, matched, events, expected",
    [
        (["x"], "x", [], ("stop_sequence", "x")),
        (["x"], "", [], ("end_turn", None)),
        (["x"], "<|im_end|>", [], ("end_turn", None)),  # the model's own
        (["x"], "x", [FIRST, WHOLE], ("tool_use", None)),
    ],
)
def test_the_text_that_ended_a_reply_is_named_if_it_is_the_clients(stop_sequences, matched, events, expected):
    events = [*events, Done(FinishReason.STOP, stop_sequence=matched)]
    *_, delta, _ = told_of(*events, stop_sequences=stop_sequences)
    reply = whole(Asked("m", stop_sequences), events)
    assert (delta.delta.stop_reason, delta.delta.stop_sequence) == expected
    assert (reply.stop_reason, reply.stop_sequence) == expected


# ---- whatever comes, the client makes of a stream what it is told at once ----

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SAID = st.text(max_size=5) | st.sampled_from([" ", "\n", "\u2028", "\x85", "\r", "data: x", "event: y\n\n"])
ARGUMENTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=3)


@st.composite
def replies(draw) -> list[Any]:
    """Events of a reply as the service promises them: the last call may be cut off by the limit."""
    events: list[Any] = []
    calls: list[ToolCall] = []
    for kind in draw(st.lists(st.sampled_from([Text, Thinking, ToolCall]), max_size=6)):
        if kind is not ToolCall:
            events += [kind(piece) for piece in draw(st.lists(SAID, max_size=3))]
            continue
        made = ToolCall("f", draw(ARGUMENTS), f"call_{len(calls)}", len(calls))
        calls.append(made)
        events += parts_of(made, draw(st.integers(0, 50)))
        if draw(st.booleans()):
            events.append(ToolCalls((made,)))
    told = {call.index for event in events if isinstance(event, ToolCalls) for call in event.calls}
    events += [ToolCalls((call,)) for call in calls if call.index not in told]
    usage = Usage(draw(st.integers(1, 99)), draw(st.integers(0, 99)))
    return [*events, Done(draw(st.sampled_from(FinishReason)), usage)]


def parts_of(made: ToolCall, cut: int) -> list[CallPart]:
    arguments = encode(dict(made.arguments)).decode()
    first, rest = arguments[:cut], arguments[cut:]
    return [CallPart(made.index, "", made.id, made.name), CallPart(made.index, first), CallPart(made.index, rest)]


def final_message(told: list[wire.StreamEvent]) -> anthropic.types.Message:
    """What Anthropic's client has in its hands at the end of the stream."""
    frames = b"".join(event_frame(each.name, encode(each)) for each in told)
    reply = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=frames)
    http = httpx2.Client(transport=httpx2.MockTransport(lambda request: reply))
    with anthropic.Anthropic(api_key="any", http_client=http) as client:
        with client.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
            return stream.get_final_message()


def meaning(message: dict[str, Any]) -> dict[str, Any]:
    blocks = [{key: value for key, value in block.items() if value is not None} for block in message["content"]]
    return {key: message[key] for key in ("stop_reason", "stop_sequence", "model")} | {
        "content": blocks,
        "usage": (message["usage"]["input_tokens"], message["usage"]["output_tokens"]),
    }


@settings(max_examples=80, deadline=None)
@given(replies())
def test_a_stream_comes_to_the_same_as_a_whole_reply(events):
    told = told_of(*events)
    assert is_well_formed(told)
    whole_reply = json.loads(encode(whole(Asked("m"), events)))
    assert meaning(final_message(told).to_dict()) == meaning(whole_reply)


def is_well_formed(told: list[wire.StreamEvent]) -> bool:
    """As a language: each block opens, has deltas of its kind, and closes; their indices count up."""
    kinds = {wire.TextBlock: "t", wire.ThinkingBlock: "h", wire.ToolUseBlock: "u"}
    deltas = {wire.TextDelta: "t", wire.ThinkingDelta: "h", wire.InputDelta: "u"}
    spelt, index = "", -1
    for event in told[1:-2]:
        match event:
            case wire.BlockStart(number, block):
                index += 1
                spelt += "+" + kinds[type(block)]
            case wire.BlockDelta(number, delta):
                spelt += deltas[type(delta)]
            case wire.BlockStop(number):
                spelt += "-"
        if number != index:
            return False
    names = (told[0].name, told[-2].name, told[-1].name)
    is_framed = names == ("message_start", "message_delta", "message_stop")
    return is_framed and re.fullmatch(r"(\+t+-|\+h+-|\+u+-)*", spelt) is not None


def test_a_call_that_was_cut_off_is_in_no_whole_reply():
    reply = whole(Asked("m"), [Text("so"), FIRST, CallPart(0, '{"a":'), LENGTH])
    assert (reply.content, reply.stop_reason) == ([wire.TextBlock("so")], "max_tokens")


# ---- a real model ----


def test_the_official_client_gets_a_message(client):
    message, request_id = asked_with_id(client, model="SmolLM2", max_tokens=8, messages=HI)
    assert (message.role, message.model, message.type) == ("assistant", "SmolLM2", "message")
    assert message.content[0].text
    assert message.stop_reason in {"end_turn", "max_tokens"}
    assert message.usage.input_tokens == 31
    assert 1 <= message.usage.output_tokens <= 8
    assert re.fullmatch("req_[0-9a-f]{24}", request_id)


def asked_with_id(client, **fields: Any):
    response = client.messages.with_raw_response.create(**fields)
    return response.parse(), response.headers["request-id"]


def test_the_official_client_streams_what_it_would_get_at_once(client):
    fields = {"model": "smollm2", "max_tokens": 8, "messages": HI, "extra_body": GREEDY}
    whole_reply = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
        assert re.fullmatch("req_[0-9a-f]{24}", stream.request_id)
    assert len(pieces) > 1
    assert "".join(pieces) == message.content[0].text == whole_reply.content[0].text
    assert message.usage == whole_reply.usage
    assert message.stop_reason == whole_reply.stop_reason


CONVERSATION = [
    {"role": "user", "content": [{"type": "text", "text": "My name "}, {"type": "text", "text": "is Ada."}]},
    {"role": "assistant", "content": "Hello, Ada!"},
    {"role": "user", "content": "And yours?"},
]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": HI},
        {"messages": CONVERSATION, "system": "Be brief."},
        {
            "messages": CONVERSATION,
            "system": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        },
    ],
)
def test_the_official_client_counts_what_a_message_would_use(client, fields):
    counted = client.messages.count_tokens(model="smollm2", **fields)
    used = client.messages.create(model="smollm2", max_tokens=1, **fields).usage
    assert counted.input_tokens == used.input_tokens


def test_counting_counts_what_would_never_fit(client):
    messages = [{"role": "user", "content": "word " * 900}]
    assert client.messages.count_tokens(model="smollm2", messages=messages).input_tokens > 900


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_is_too_long_is_refused_in_words_that_agents_look_for(client, stream):
    messages = [{"role": "user", "content": "word " * 900}]
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(model="smollm2", max_tokens=8, messages=messages, stream=stream)
    assert re.fullmatch(r"prompt is too long: \d+ tokens > 512 maximum", refused.value.body["error"]["message"])
    assert refused.value.request_id == refused.value.body["request_id"]


def test_a_schema_binds_the_answer(client):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    config = {"format": {"type": "json_schema", "schema": schema}}
    message = client.messages.create(
        model="smollm2", max_tokens=40, messages=HI, output_config=config, extra_body=GREEDY
    )
    assert isinstance(json.loads(message.content[0].text)["age"], int)


def test_options_of_ollamas_work_here_too(client):
    extra = {"options": {"num_ctx": 40}}
    with pytest.raises(anthropic.BadRequestError, match="> 40 maximum"):
        client.messages.create(
            model="smollm2", max_tokens=8, messages=[{"role": "user", "content": "word " * 40}], extra_body=extra
        )


def test_a_body_may_be_compressed(real):
    content = zstandard.compress(json.dumps({"model": "smollm2", "max_tokens": 2, "messages": HI}).encode())
    reply = real.http.post("/v1/messages", content=content, headers={"Content-Encoding": "zstd"})
    assert reply.json()["content"]


@pytest.fixture(scope="module")
def thinker(real, smollm2_gguf, tmp_path_factory):
    """A model that begins every reply with a thought, whether it wants to or not."""
    path = with_chat_template(smollm2_gguf, tmp_path_factory.mktemp("ponderer") / "k.gguf", FORCED_THINKING)
    real.create("ponderer", path)
    yield real
    real.sdk.generate("ponderer", keep_alive=0)
    until(lambda: "ponderer:latest" not in real.loaded())
    real.sdk.delete("ponderer")


@pytest.mark.parametrize(
    "wish, kind",
    [
        ({}, "thinking"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "thinking"),
        ({"thinking": {"type": "disabled"}}, "text"),
    ],
)
def test_a_model_that_can_think_does_unless_it_is_told_not_to(thinker, wish, kind):
    fields = {"model": "ponderer", "max_tokens": 12, "messages": HI, "extra_body": GREEDY, **wish}
    counted = {name: value for name, value in fields.items() if name not in {"max_tokens", "extra_body"}}
    with client_of(thinker) as client:
        with client.messages.stream(**fields) as stream:
            (block,) = stream.get_final_message().content
        message = client.messages.create(**fields)
        assert client.messages.count_tokens(**counted).input_tokens == message.usage.input_tokens
    assert block.type == kind
    assert [block.to_dict()] == message.to_dict()["content"]


# ---- errors ----


@pytest.mark.parametrize(
    "fields, error, said",
    [
        ({"model": "nope"}, anthropic.NotFoundError, "model 'nope' not found"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens is required and must be positive"),
        ({"messages": []}, anthropic.BadRequestError, "messages is required"),
        ({"tools": [WEATHER]}, anthropic.BadRequestError,
         "registry.ollama.ai/library/smollm2:latest does not support tools"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, anthropic.PermissionDeniedError,
         "ollama cloud is disabled: web search is unavailable"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_mistakes_are_typed_exceptions(client, fields, error, said, stream):
    wanted = {"model": "smollm2", "max_tokens": 8, "messages": HI, "stream": stream, **fields}
    with pytest.raises(error) as refused:
        client.messages.create(**wanted)
    assert refused.value.body["error"]["message"] == said
    assert re.fullmatch("req_[0-9a-f]{24}", refused.value.request_id)
    assert refused.value.request_id == refused.value.body["request_id"]


def test_counting_has_the_same_mistakes(client):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="nope", messages=HI)
    with pytest.raises(anthropic.BadRequestError, match="messages is required"):
        client.messages.count_tokens(model="smollm2", messages=[])


@pytest.mark.parametrize(
    "status, error, kind",
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (503, anthropic.ServiceUnavailableError, "overloaded_error"),
        (529, anthropic.OverloadedError, "overloaded_error"),
        (418, anthropic.APIStatusError, "api_error"),
        (500, anthropic.InternalServerError, "api_error"),
    ],
)
def test_what_the_engine_refuses_keeps_its_status(puppet, status, error, kind):
    with client_of(puppet) as client, pytest.raises(error) as refused:
        client.messages.create(**ask(f"refuse:{status}"))
    assert refused.value.status_code == status
    assert refused.value.body["error"] == {"type": kind, "message": "refused as told"}


def test_the_words_for_a_prompt_that_is_too_long():
    told = json.loads(dialect(ContextExceeded(700, 512)).body)
    assert told["error"]["message"] == "prompt is too long: 700 tokens > 512 maximum"


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(puppet):
    pieces = []
    with client_of(puppet) as client, pytest.raises(anthropic.APIStatusError) as broken:
        with client.messages.stream(**ask("break:2")) as stream:
            pieces.extend(stream.text_stream)
    assert pieces == [" tok0", " tok1"]
    assert broken.value.body["error"] == {"type": "api_error", "message": "broke as told"}
    assert broken.value.body["request_id"] == broken.value.request_id


# ---- tools and thoughts ----

OSLO = [
    {"reasoning_content": "Where "},
    {"reasoning_content": "is it?"},
    {"content": "I look it up."},
    call(0, "", id="call_1", name="get_weather"),
    call(0, '{"city": '),
    call(0, '"Oslo"}'),
    call(1, "{}", id="call_2", name="get_weather"),
]


def test_the_official_client_sees_calls_grow(puppet):
    grown = []
    with client_of(puppet) as client:
        with client.messages.stream(**ask(raw(*OSLO), tools=[WEATHER])) as stream:
            grown = [event.partial_json for event in stream if event.type == "input_json"]
            message = stream.get_final_message()
        whole_reply = client.messages.create(**ask(raw(*OSLO), tools=[WEATHER]))
    assert len(grown) > 2
    for reply in (message, whole_reply):
        thought, said, first, second = reply.content
        assert (thought.thinking, thought.signature) == ("Where is it?", "")
        assert said.text == "I look it up."
        assert (first.name, first.input) == ("get_weather", {"city": "Oslo"})
        assert (second.name, second.input) == ("get_weather", {})
        assert first.id != second.id
        assert reply.stop_reason == "tool_use"
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 9)


def test_a_call_and_its_result_go_back_as_the_client_sends_them(puppet):
    """A whole reply of ours, thoughts and all, is a turn of the next request."""
    with client_of(puppet) as client:
        first = client.messages.create(**ask(raw(*OSLO), tools=[WEATHER]))
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "3 C", "is_error": False}
            for block in first.content
            if block.type == "tool_use"
        ]
        turns = [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [*results, {"type": "text", "text": "say:It |is |cold."}]},
        ]
        second = client.messages.create(model="able", max_tokens=100, messages=turns, tools=[WEATHER])
    assert [block.text for block in second.content] == ["It is cold."]


def test_who_wants_no_thoughts_gets_none(puppet):
    deltas = ({"reasoning_content": "hm"}, {"content": "yes"})
    with client_of(puppet) as client:
        message = client.messages.create(**ask(raw(*deltas), thinking={"type": "disabled"}))
    assert [block.type for block in message.content] == ["text"]


def test_a_reply_of_nothing_has_no_blocks(puppet):
    with client_of(puppet) as client:
        message = client.messages.create(**ask(raw()))
        with client.messages.stream(**ask(raw())) as stream:
            streamed = stream.get_final_message()
    assert message.content == streamed.content == []
    assert message.stop_reason == streamed.stop_reason == "end_turn"


# ---- the client leaves ----


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_runner(puppet, stream):
    body = ask("paced:2000:50", max_tokens=2000, stream=stream)
    connection = send_request(puppet, "/v1/messages", body)
    if stream:
        until(lambda: b"tok" in connection.recv(1 << 16))
    until(lambda: open_streams(puppet) == 1)
    connection.close()
    until(lambda: open_streams(puppet) == 0)


def test_a_conversation_that_only_anthropic_has_is_refused_so_that_its_client_sends_all_of_it(puppet):
    body = {"model": "m", "max_tokens": 5, "messages": HI, "thread": {"type": "continue"}}
    response = puppet.post("/v1/messages", body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


@pytest.mark.parametrize("field", ["mcp_servers", "container"])
def test_what_only_anthropics_servers_can_do_is_refused_by_name(puppet, field):
    response = puppet.post("/v1/messages", {"model": "m", "max_tokens": 5, "messages": HI, field: [{"id": "x"}]})
    assert (response.status_code, response.json()["error"]["message"]) == (
        400, f"{field} is not supported by this server",
    )  # fmt: skip


def test_arguments_nested_without_end_are_the_clients_fault(puppet):
    arguments: dict[str, Any] = {}
    for _ in range(900):
        arguments = {"a": arguments}
    puppet.post("/api/create", {"model": "go", "from": "m", "stream": False, "template": GO_TEMPLATE})
    call = {"type": "tool_use", "id": "c", "name": "f", "input": arguments}
    messages = [*HI, {"role": "assistant", "content": [call]}, *HI]
    response = puppet.post("/v1/messages", {"model": "go", "max_tokens": 5, "messages": messages})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
