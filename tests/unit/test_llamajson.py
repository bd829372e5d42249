"""llama-server's JSON: what we send it, and what its streams and errors mean, wherever its bytes are cut."""

import base64
import json

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.errors import ContextExceeded, EngineRejected, RunnerFailed
from a3s_power.generation import (
    CallPart,
    Done,
    FinishReason,
    Text,
    Thinking,
    Timings,
    TokenLogprob,
    ToolCalls,
    Usage,
)
from a3s_power.messages import Message, ToolCall
from a3s_power.options import SAMPLING_KINDS, SamplingOptions
from a3s_power.runner.base import ChatPrompt, Sampling
from a3s_power.runner.llamajson import (
    chat_body,
    chat_events,
    completion_body,
    completion_events,
    refusal,
    server_sent_data,
    template_fields,
)

# ---- streams in ----

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
TIMINGS = {"cache_n": 2, "prompt_n": 5, "prompt_ms": 1.5, "predicted_n": 3, "predicted_ms": 2.25, "more": []}
MEASURED = (Usage(7, 3, 2), Timings(1_500_000, 2_250_000))
NO_LAST_WORD = RunnerFailed("the engine ended its answer without a last word")


def sse(*items):
    """A stream of events as llama-server writes them; bytes stand for themselves."""
    return b"".join(i if isinstance(i, bytes) else b"data: %b\n\n" % json.dumps(i).encode() for i in items)


def text(content, **more):
    return {"content": content, "stop": False, **more}


def end(stop_type="eos", **more):
    return {"content": "", "stop": True, "stop_type": stop_type, "timings": TIMINGS, **more}


def delta(finish_reason=None, logprobs=None, **fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason, "logprobs": logprobs}]}


def call_delta(index, *, call_id=None, name=None, arguments=None):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return delta(tool_calls=[{"index": index, "id": call_id, "type": "function", "function": function}])


USAGE = {"choices": [], "usage": {"prompt_tokens": 7}, "timings": TIMINGS}
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"

FIRST = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "id": 1, "top_logprobs": [
    {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}, {"token": "é", "logprob": -1.5, "bytes": [195]},
]}  # fmt: skip
HI, BROKEN = TokenLogprob("Hi", -0.5, b"Hi"), TokenLogprob("é", -1.5, b"\xc3")

COMPLETIONS = {
    "text": (
        sse(text("He"), text("llo"), end()),
        [Text("He"), Text("llo"), Done(STOP, *MEASURED)],
    ),
    "the limit": (sse(text("a"), end("limit")), [Text("a"), Done(LENGTH, *MEASURED)]),
    "a stop word": (sse(text("a"), end("word", stopping_word="b")), [Text("a"), Done(STOP, *MEASURED, "b")]),
    "nothing at all": (sse(end()), [Done(STOP, *MEASURED)]),
    "text in the last chunk": (sse(end(content="é🙂")), [Text("é🙂"), Done(STOP, *MEASURED)]),
    "no timings": (sse({"content": "", "stop": True}), [Done(STOP)]),
    "empty pieces, pings and other lines": (
        sse(b"\n", PING, text(""), b"event: x\n", PING, text("a"), b"id: 3\n\n", end()),
        [Text("a"), Done(STOP, *MEASURED)],
    ),
    "line breaks and lookalikes in the text": (
        sse(text("data: x\n\ndata: [DONE]\r\n"), end()),
        [Text("data: x\n\ndata: [DONE]\r\n"), Done(STOP, *MEASURED)],
    ),
    "fields nobody knows": (sse(text("a", id_slot=1, tokens=[1, 2], __verbose={}), end()), [Text("a"), Done(STOP, *MEASURED)]),
    "carriage returns": (sse(text("a"), end()).replace(b"\n", b"\r\n"), [Text("a"), Done(STOP, *MEASURED)]),
    "all after the last word": (sse(end(), text("late"), b"data: {"), [Done(STOP, *MEASURED)]),
    "progress of the prompt": (
        sse({"content": "", "stop": False, "prompt_progress": {"total": 9, "processed": 4}}, end()),
        [Done(STOP, *MEASURED)],
    ),
    "an end without a last word": (sse(text("a")), [Text("a"), NO_LAST_WORD]),
    "an end in the middle of a line": (sse(text("a")) + b'data: {"content":"', [Text("a"), NO_LAST_WORD]),
    "no bytes at all": (b"", [NO_LAST_WORD]),
    "an error as data": (
        sse(text("a"), {"error": {"code": 500, "message": "broke", "type": "server_error"}}),
        [Text("a"), EngineRejected("broke", 500)],
    ),
    "an error on a line of its own": (
        sse(text("a"), b'error: {"code":503,"message":"busy","type":"unavailable_error"}\n\n'),
        [Text("a"), EngineRejected("busy", 503)],
    ),
    "an error whose code is a word": (sse({"error": {"code": "odd", "message": "m"}}), [EngineRejected("m", 500)]),
    "a context that is full": (
        sse({"error": {"code": 400, "message": "m", "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}}),
        [ContextExceeded(9, 8)],
    ),
}  # fmt: skip

CHATS = {
    "text": (
        sse(delta(role="assistant", content=None), delta(content="He"), delta(content="llo"), delta("stop"), USAGE, DONE),
        [Text("He"), Text("llo"), Done(STOP, *MEASURED)],
    ),
    "the limit": (sse(delta(content="a"), delta("length"), USAGE, DONE), [Text("a"), Done(LENGTH, *MEASURED)]),
    "pings": (sse(PING, delta(content="a"), PING, delta("stop"), PING, USAGE), [Text("a"), Done(STOP, *MEASURED)]),
    "thinking, then text": (
        sse(delta(reasoning_content="hm"), delta(reasoning_content="…"), delta(content="a"), delta("stop"), USAGE, DONE),
        [Thinking("hm"), Thinking("…"), Text("a"), Done(STOP, *MEASURED)],
    ),
    "the end of a thought and a first word at once": (
        sse(delta(reasoning_content="so", content="a"), USAGE),
        [Thinking("so"), Text("a"), Done(STOP, *MEASURED)],
    ),
    "a call in pieces": (
        sse(call_delta(0, call_id="c1", name="add", arguments=""), call_delta(0, arguments='{"b": '),
            call_delta(0, arguments='[1,"é"],'), call_delta(0, arguments=' "a": null}'), delta("tool_calls"), USAGE, DONE),
        [CallPart(0, "", "c1", "add"), CallPart(0, '{"b": '), CallPart(0, '[1,"é"],'), CallPart(0, ' "a": null}'),
         ToolCalls((ToolCall("add", {"b": [1, "é"], "a": None}, "c1", 0),)), Done(STOP, *MEASURED)],
    ),
    "several calls": (
        sse(call_delta(0, call_id="c0", name="one", arguments="{"), call_delta(0, arguments="}"),
            call_delta(1, call_id="c1", name="two", arguments="{"), call_delta(1, arguments='"x":2}'), delta("tool_calls"), USAGE, DONE),
        [CallPart(0, "{", "c0", "one"), CallPart(0, "}"), ToolCalls((ToolCall("one", {}, "c0", 0),)),
         CallPart(1, "{", "c1", "two"), CallPart(1, '"x":2}'), ToolCalls((ToolCall("two", {"x": 2}, "c1", 1),)), Done(STOP, *MEASURED)],
    ),
    "several calls at once": (
        sse(delta(tool_calls=[{"index": n, "function": {"name": name, "arguments": "{}"}} for n, name in enumerate("fg")]), USAGE),
        [CallPart(0, "{}", "", "f"), ToolCalls((ToolCall("f", {}, "", 0),)),
         CallPart(1, "{}", "", "g"), ToolCalls((ToolCall("g", {}, "", 1),)), Done(STOP, *MEASURED)],
    ),
    "a call that its parser cannot follow": (
        sse({"choices": [], "prompt_progress": {"total": 9}}, delta(content="a"),
            {"error": {"code": 500, "message": "The model produced output that does not match the expected peg-native format"}}),
        [Text("a"), Done(STOP, Usage(9, 1))],
    ),
    "text before a call without arguments": (
        sse(delta(content="let me see"), call_delta(0, call_id="c", name="now"), USAGE),
        [Text("let me see"), CallPart(0, "", "c", "now"), CallPart(0, "{}"), ToolCalls((ToolCall("now", {}, "c", 0),)), Done(STOP, *MEASURED)],
    ),
    "arguments that are no object": (
        sse(call_delta(0, name="f", arguments="[1]"), call_delta(1, name="f", arguments="{}"), USAGE),
        [CallPart(0, "[1]", "", "f"), CallPart(1, "{}", "", "f"), ToolCalls((ToolCall("f", {}, "", 1),)), Done(STOP, *MEASURED)],
    ),
    "arguments that are cut off": (
        sse(delta(content="a"), call_delta(0, name="f", arguments='{}'), call_delta(1, name="f", arguments='{"a":'),
            delta("length"), USAGE),
        [Text("a"), CallPart(0, "{}", "", "f"), ToolCalls((ToolCall("f", {}, "", 0),)), CallPart(1, '{"a":', "", "f"), Done(LENGTH, *MEASURED)],
    ),
    "an end without a last word": (sse(delta(content="a"), delta("stop")), [Text("a"), NO_LAST_WORD]),
    "a last word without usage": (sse(delta(content="a"), delta("stop"), DONE), [Text("a"), NO_LAST_WORD]),
    "an error": (
        sse(delta(content="a"), {"error": {"code": 400, "message": "no", "type": "invalid_request_error"}}),
        [Text("a"), EngineRejected("no", 400)],
    ),
}  # fmt: skip

STREAMS = [
    *(pytest.param(completion_events, data, told, id=f"completion: {name}") for name, (data, told) in COMPLETIONS.items()),
    *(pytest.param(chat_events, data, told, id=f"chat: {name}") for name, (data, told) in CHATS.items()),
]  # fmt: skip


LOST = {
    "one token each": (
        [text("a", tokens=[1], tokens_predicted=1), text("b", tokens=[2], tokens_predicted=2)],
        [Text("a", (), (1,)), Text("b", (), (2,))],
    ),
    "a character of three": (
        [text("a", tokens=[1], tokens_predicted=1), text("😀", tokens=[4], tokens_predicted=4)],
        [Text("a", (), (1,)), Text("😀")],
    ),
    "one that may begin a stop sequence, and does not": (
        [text("", tokens=[3], tokens_predicted=3), text("😀b", tokens=[4], tokens_predicted=4), text("c", tokens=[5], tokens_predicted=5)],
        [Text(""), Text("😀b"), Text("c", (), (5,))],
    ),
    "one behind what may begin a stop sequence": (
        [text("", tokens=[1], tokens_predicted=1), text("a😀", tokens=[4], tokens_predicted=4), text("b", tokens=[5], tokens_predicted=5)],
        [Text("", (), (1,)), Text("a😀"), Text("b", (), (5,))],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("chunks", "expected"), LOST.values(), ids=LOST)
def test_a_text_has_all_its_tokens_or_none(chunks, expected):
    def parse(given, want_top):
        return completion_events(given, want_top, tells_tokens=True)

    assert told(parse, sse(*chunks, end())) == [*expected, Done(STOP, *MEASURED)]


async def pieces(data, cuts):
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[start:stop]


def told(parse, data, cuts=(), want_top=None):
    """All events of a stream that arrives in these pieces; an error that ends it stands at the end."""

    async def collect():
        found = []
        try:
            async for event in parse(pieces(data, cuts), want_top):
                found.append(event)  # noqa: PERF401 (what came before an error counts)
        except (RunnerFailed, EngineRejected, ContextExceeded) as exc:
            found.append(exc)
        return found

    return anyio.run(collect)


def same(found, expected):
    """Errors are the same when type, data and the beginning of the text are."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, Exception):
            assert type(one) is type(other)
            assert str(one).startswith(str(other))
            assert getattr(one, "status", None) == getattr(other, "status", None)
        else:
            assert one == other


@pytest.mark.parametrize(("parse", "data", "expected"), STREAMS)
def test_a_stream_tells_its_events(parse, data, expected):
    same(told(parse, data), expected)


@pytest.mark.parametrize(("parse", "data", "expected"), STREAMS)
def test_it_tells_the_same_wherever_its_bytes_are_cut(parse, data, expected):
    async def at_every_place():
        return [[data_ async for data_ in server_sent_data(pieces(data, [cut]))] for cut in range(len(data) + 1)]

    whole, *others = anyio.run(at_every_place)
    assert all(other == whole for other in others)
    same(told(parse, data, range(1, len(data))), expected)  # byte for byte


@given(st.sampled_from([param.values for param in STREAMS]), st.data())
def test_it_tells_the_same_in_any_pieces(stream, draw):
    parse, data, expected = stream
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=8).map(sorted))
    same(told(parse, data, cuts), expected)


@given(st.binary(max_size=60), st.lists(st.binary(max_size=20), max_size=4))
def test_lines_that_are_no_data_are_passed_over(head, chunks):
    async def collect():
        return [data async for data in server_sent_data(pieces(data, [len(head)]))]

    data = head + b"".join(chunks)
    if b"data: " not in data and b"error: " not in data:
        assert anyio.run(collect) == []


# ---- logprobs ----


@pytest.mark.parametrize(
    ("want_top", "logprobs"),
    [
        (None, ()),
        (0, (HI,)),
        (1, (TokenLogprob("Hi", -0.5, b"Hi", (HI,)),)),
        (2, (TokenLogprob("Hi", -0.5, b"Hi", (HI, BROKEN)),)),      # half a character has its bytes
        (5, (TokenLogprob("Hi", -0.5, b"Hi", (HI, BROKEN)),)),
    ],
)  # fmt: skip
def test_logprobs_come_with_the_text_as_many_as_were_asked_for(want_top, logprobs):
    completion = sse(text("Hi", completion_probabilities=[FIRST]), end())
    chat = sse(delta(content="Hi", logprobs={"content": [FIRST]}), USAGE)
    expected = [Text("Hi", logprobs), Done(STOP, *MEASURED)]
    assert told(completion_events, completion, want_top=want_top) == expected
    assert told(chat_events, chat, want_top=want_top) == expected


def test_logprobs_of_thinking_stay_with_the_thinking():
    data = sse(delta(reasoning_content="Hi", logprobs={"content": [FIRST]}), USAGE)
    assert told(chat_events, data, want_top=0) == [Thinking("Hi", (HI,)), Done(STOP, *MEASURED)]


def test_logprobs_of_text_that_is_held_back_come_alone():
    data = sse(delta(logprobs={"content": [FIRST]}), USAGE)
    assert told(chat_events, data, want_top=0) == [Text("", (HI,)), Done(STOP, *MEASURED)]
    assert told(chat_events, data) == [Done(STOP, *MEASURED)]


def test_a_token_without_bytes_has_those_of_its_text():
    data = sse(text("é", completion_probabilities=[{"token": "é", "logprob": 0}]), end())
    assert told(completion_events, data, want_top=0)[0] == Text("é", (TokenLogprob("é", 0.0, "é".encode()),))


# ---- refusals ----


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (418, b'{"error":{"code":1,"message":"no","type":"t"}}', EngineRejected("no", 418)),    # the status wins
        (501, b'{"error":{"message":"not here"}}', EngineRejected("not here", 501)),
        (500, b"plain words\n", EngineRejected("plain words", 500)),
        (500, b'{"error":"a text"}', EngineRejected('{"error":"a text"}', 500)),
        (500, b"", EngineRejected("engine status 500", 500)),
        (502, b"\xff", EngineRejected("\ufffd", 502)),
        (400, b'{"error":{"type":"exceed_context_size_error","n_prompt_tokens":99,"n_ctx":64}}', ContextExceeded(99, 64)),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_200_is_an_error_in_the_engines_words(status, body, expected):
    same([refusal(status, body)], [expected])


# ---- bodies out ----

RENAMED = {"num_keep": "n_keep"}
UNLIKE_DEFAULTS = SamplingOptions(
    num_keep=1, seed=2, num_predict=3, top_k=4, top_p=0.5, min_p=0.6, typical_p=0.7, repeat_last_n=8, temperature=0.9,
    repeat_penalty=1.1, presence_penalty=1.2, frequency_penalty=1.3, stop=("a", "b"),
)  # fmt: skip
PROMPT = ChatPrompt((Message("user", "Hi"),))


def completion(**sampling):
    return json.loads(completion_body("Hi", Sampling(**sampling)))


def chat(prompt=PROMPT, **sampling):
    return json.loads(chat_body(prompt, Sampling(**sampling)))


@pytest.mark.parametrize("body", [completion, chat])
@pytest.mark.parametrize("name", sorted(set(SAMPLING_KINDS) - {"num_predict"}))
def test_every_sampling_option_goes_out_under_the_engines_name(body, name):
    value = getattr(UNLIKE_DEFAULTS, name)
    assert body(options=UNLIKE_DEFAULTS)[RENAMED.get(name, name)] == (list(value) if name == "stop" else value)


@pytest.mark.parametrize(("seed", "sent"), [(-1, 2**32 - 1), (0, 0), (2**32 + 5, 5), (-2, 2**32 - 2)])
def test_a_seed_wraps_to_the_engines_32_bits(seed, sent):
    assert completion(options=SamplingOptions(seed=seed))["seed"] == sent


@pytest.mark.parametrize("body", [completion, chat])
@pytest.mark.parametrize(("max_tokens", "n_predict"), [(None, -1), (0, 0), (7, 7)])
def test_the_bound_is_the_one_that_was_decided_not_the_option(body, max_tokens, n_predict):
    assert body(options=UNLIKE_DEFAULTS, max_tokens=max_tokens)["n_predict"] == n_predict


def test_both_bodies_stream_and_reuse_the_cache():
    assert completion().items() >= {"prompt": "Hi", "stream": True, "cache_prompt": True}.items()
    assert chat()["stream_options"] == {"include_usage": True}
    assert chat()["messages"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("body", [completion, chat])
def test_a_grammar_binds_the_reply(body):
    assert body(grammar='root ::= "a"')["grammar"] == 'root ::= "a"'


@pytest.mark.parametrize("body", [completion, chat])
def test_tokens_are_favoured_and_banned(body):
    assert body(logit_bias={7: -100.0, 9: 2.5})["logit_bias"] == [[7, -100.0], [9, 2.5]]


@pytest.mark.parametrize(("budget", "sent"), [(0, 1), (1, 1), (1024, 1024)])
def test_the_engine_ends_thoughts_only_where_it_can_tell_them(budget, sent):
    assert chat(thinking_budget=budget)["reasoning_budget_tokens"] == sent
    assert "reasoning_budget_tokens" not in completion(thinking_budget=budget)


def test_special_tokens_are_written_out_where_they_are_wanted():
    assert completion(preserved_tokens=("<think>",))["preserved_tokens"] == ["<think>"]


@pytest.mark.parametrize(("top_logprobs", "asked"), [(0, 1), (1, 1), (20, 20)])
def test_logprobs_are_asked_for(top_logprobs, asked):
    assert completion(top_logprobs=top_logprobs)["n_probs"] == asked
    assert chat(top_logprobs=top_logprobs).items() >= {"logprobs": True, "top_logprobs": asked}.items()


@pytest.mark.parametrize(
    "absent",
    [
        "grammar",
        "n_probs",
        "logprobs",
        "tools",
        "chat_template_kwargs",
        "logit_bias",
        "reasoning_budget_tokens",
    ],
)
def test_what_nobody_asked_for_is_not_sent(absent):
    assert absent not in completion()
    assert absent not in chat()


@pytest.mark.parametrize(
    ("think", "kwargs"),
    [
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
        (None, None),
    ],
)
def test_thinking_is_told_to_the_template(think, kwargs):
    assert chat(ChatPrompt(PROMPT.messages, think=think)).get("chat_template_kwargs") == kwargs


def test_tools_go_out_as_they_came_in():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": {}}}}]
    assert json.dumps(chat(ChatPrompt(PROMPT.messages, tools))["tools"]) == json.dumps(tools)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (Message("assistant", "a", tool_calls=(ToolCall("f", {"z": 1, "a": "é"}, "c1"), ToolCall("g", {}))),
         {"role": "assistant", "content": "a", "tool_calls": [
             {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"z":1,"a":"é"}'}},
             {"id": "", "type": "function", "function": {"name": "g", "arguments": "{}"}}]}),
        (Message("assistant", "a", thinking="hm"), {"role": "assistant", "content": "a", "reasoning_content": "hm"}),
        (Message("tool", "3 C", tool_name="f", tool_call_id="c1"),
         {"role": "tool", "content": "3 C", "tool_call_id": "c1", "name": "f"}),
        (Message("tool", "3 C", tool_call_id="c1"), {"role": "tool", "content": "3 C", "tool_call_id": "c1"}),
        (Message("user", "look", images=(b"\x89PNG",)),
         {"role": "user", "content": [
             {"type": "text", "text": "look"},
             {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()}}]}),
        (Message("user", images=(b"1", b"2")),
         {"role": "user", "content": [
             {"type": "image_url", "image_url": {"url": "data:image/png;base64,MQ=="}},
             {"type": "image_url", "image_url": {"url": "data:image/png;base64,Mg=="}}]}),
    ],
)  # fmt: skip
def test_a_message_is_written_in_the_engines_way(message, fields):
    assert json.loads(json.dumps(template_fields(ChatPrompt((message,)))["messages"])) == [fields]


def test_calls_that_came_in_go_out_again():
    events = told(chat_events, CHATS["several calls"][0])
    calls = tuple(call for event in events if isinstance(event, ToolCalls) for call in event.calls)
    sent = template_fields(ChatPrompt((Message("assistant", tool_calls=calls),)))["messages"][0]["tool_calls"]
    assert [(call["id"], call["function"]) for call in sent] == [
        ("c0", {"name": "one", "arguments": "{}"}),
        ("c1", {"name": "two", "arguments": '{"x":2}'}),
    ]
