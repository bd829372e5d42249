"""Harmony: what gpt-oss writes, and what of it is answer, reasoning and call."""

import json
from dataclasses import replace
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.generation import CallPart, Text, Thinking, ToolCalls
from a3s_power.messages import Message, ToolCall
from a3s_power.prompt.harmony import HEADER_CHARS, PRESERVED_TOKENS, HarmonyParser, ToolNames

MARKERS = (*PRESERVED_TOKENS, "<|call|>", "<|return|>")
ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|channel|>final<|message|>"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
NEXT = "<|start|>assistant"


def tool(name):
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}}}


def read(*pieces, last=None, tools=()):
    """The events, adjacent ones of a kind joined, and whether a call was lost."""
    numbers = count()
    parser = HarmonyParser(ToolNames.of(tools), last, lambda: f"id{next(numbers)}")
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    return joined(events), parser.lost


def parse(*pieces, **more):
    """The same without the parts of calls."""
    events, lost = read(*pieces, **more)
    return joined(event for event in events if not isinstance(event, CallPart)), lost


def joined(events):
    result = []
    for event in events:
        match result[-1:], event:
            case ([Text(before)], Text(text)) | ([Thinking(before)], Thinking(text)):
                result[-1] = type(event)(before + text)
                continue
            case [CallPart() as before], CallPart(index, arguments, "", "") if index == before.index:
                result[-1] = replace(before, arguments=before.arguments + arguments)
                continue
        result.append(event)
    return result


def part(index, name="", arguments=""):
    return CallPart(index, arguments, f"id{index}" if name else "", name)


def call(index=0, name="f", **arguments):
    return ToolCalls((ToolCall(name, arguments, f"id{index}", index),))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        # Well-formed.
        ("", []),
        (ANALYSIS + "Hm.<|end|>" + NEXT + FINAL + "Hi!<|return|>", [Thinking("Hm."), Text("Hi!")]),
        (ANALYSIS + " a\n<|end|>" + NEXT + FINAL + "\n b ", [Thinking(" a\n"), Text("\n b ")]),     # spaces are kept
        (NEXT + FINAL + "Hi", [Text("Hi")]),                                                        # the prompt's, again
        ("<|channel|>commentary<|message|>I'll look.<|end|>" + NEXT + CALL + '{"a": 1}<|call|>',
            [Text("I'll look."), call(a=1)]),
        ("<|channel|>final <|constrain|>json<|message|>{}", [Text("{}")]),
        (FINAL + "a <| b <|start b < c <|", [Text("a <| b <|start b < c <|")]),                     # no markers

        # The recipient stands in either place, in any channel but the last.
        (" to=functions.f<|channel|>commentary json<|message|>{}", [call()]),
        (NEXT + " to=functions.f<|channel|>commentary json<|message|>{}<|call|>", [call()]),
        (NEXT + " to=functions.f<|message|>{}<|call|>", [call()]),
        ("<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}", [call()]),
        ("<|channel|>commentary to=f<|message|>{}", [call()]),
        ("<|channel|>commentary to=browser.search code<|message|>{}", [call(name="browser.search")]),
        ("<|channel|>analysis to=functions.f code<|message|>{}", [call()]),
        ("<|channel|>final to=functions.f<|message|>{}", [Text("{}")]),
        ("<|channel|>commentary to=assistant<|message|>a", [Text("a")]),                            # no tool
        ("<|channel|>commentary to=functions.user<|message|>{}", [call(name="user")]),

        # A call is complete at the end of its message, with or without a marker.
        *((CALL + '{"a": 1}' + end, [call(a=1)]) for end in ("<|call|>", "<|end|>", "<|return|>", "<|start|>", "", "\n")),
        (CALL + '{"a": "<|"}', [call(a="<|")]),
        (CALL + "{}<|call|>" + NEXT + CALL + '{"b": [1, null]}<|call|>' + FINAL + "done",
            [call(), call(1, b=[1, None]), Text("done")]),

        # Malformed headers.
        ("<|channel|>thoughts<|message|>a", [Text("a")]),
        ("<|message|>a", [Text("a")]),
        ("<|channel|>analysis?analysis?<|message|>a", [Thinking("a")]),
        ("<|channel|>bash<|channel|>analysis<|message|>a", [Thinking("a")]),
        ("<|channel|>commentary to=functions.f<|channel|>commentary json<|message|>{}", [call()]),
        ("<|channel|>??<|end|>" + NEXT + FINAL + "a", [Text("a")]),
        ("<|channel|>fin", []),                                                                     # cut off
        ("<|start|>assis", []),
        (ANALYSIS + "a" + FINAL + "b", [Thinking("a"), Text("b")]),                                 # no end, no start
        (ANALYSIS + "a<|end|>assistant" + FINAL + "b", [Thinking("a"), Text("b")]),
        (ANALYSIS + "a<|end|>\n" + NEXT + FINAL + "b", [Thinking("a"), Text("b")]),
        (FINAL + "a<|message|>b<|constrain|>c", [Text("abc")]),                                     # strays

        # An answer without any header.
        ('{"a": 1}', [Text('{"a": 1}')]),
        (ANALYSIS + "a<|end|>Hello there.", [Thinking("a"), Text("Hello there.")]),
        ("x" * 9 * HEADER_CHARS + "<|end|>" + NEXT + FINAL + "y", [Text("x" * 9 * HEADER_CHARS + "y")]),

        # Headers without end: their beginning counts.
        ("<|channel|>final" + "x" * 9 * HEADER_CHARS, []),
        ("<|channel|>analysis" + "x" * 9 * HEADER_CHARS + "<|message|>a", [Thinking("a")]),
        ("<|constrain|>" * 9 * HEADER_CHARS + "<|message|>a", [Text("a")]),
    ],
)  # fmt: skip
def test_the_channel_tells_what_a_text_is(raw, expected):
    assert parse(raw) == (expected, False)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (CALL + '{"a": 1', []),
        (CALL, []),
        (CALL.removesuffix("<|message|>"), []),
        (" to=functions.f", []),
        (" to=functions.f" + " " * 2 * HEADER_CHARS, []),
        (CALL + "[1]<|call|>", []),
        (CALL + "{'a': 1}<|call|>", []),
        (CALL + '{"a": NaN}<|call|>', []),
        (CALL + '{"a": "\\ud800"}<|call|>', []),
        (CALL + '{"a":' * 100_000 + "<|call|>", []),
        ("<|channel|>analysis to=python code<|message|>print(1)<|call|>", []),
        (FINAL + "a<|end|>" + CALL + "{<|call|>" + CALL + "{}<|call|>", [Text("a"), call(1)]),
    ],
    ids=range(12),
)
def test_a_call_that_cannot_be_read_is_lost_and_never_text(raw, expected):
    assert parse(raw) == (expected, True)


@pytest.mark.parametrize(
    ("last", "raw", "expected"),
    [
        (Message("assistant", "The sky is"), " blue.", [Text(" blue.")]),
        (Message("assistant", "The sky", "Hm."), " is blue.<|end|>", [Text(" is blue.")]),
        (Message("assistant", thinking="Let me"), " see.<|end|>" + NEXT + FINAL + "Yes", [Thinking(" see."), Text("Yes")]),
        (Message("assistant", thinking="Hm."), "<|end|>" + NEXT + FINAL + "{}", [Text("{}")]),
        (Message("assistant"), ANALYSIS + "a", [Thinking("a")]),
        (Message("user", "Hi", "Hm."), ANALYSIS + "a", [Thinking("a")]),
        (None, ANALYSIS + "a", [Thinking("a")]),
    ],
)  # fmt: skip
def test_the_model_goes_on_with_the_last_message_of_an_assistant(last, raw, expected):
    assert parse(raw, last=last) == (expected, False)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((ANALYSIS, "Hm", ".", "<|end|>"), [[], [Thinking("Hm")], [Thinking(".")], []]),
        ((FINAL, "a <", "| b"), [[], [Text("a ")], [Text("<| b")]]),
        ((FINAL, "a<|en", "d|>"), [[], [Text("a")], []]),
        ((CALL, "\n", "{}", "<|call|>"), [[], [], [part(0, "f"), part(0, arguments="{}")], [call()]]),
        ((CALL, '{"a"', ": <", "1", NEXT), [[], [part(0, "f"), part(0, arguments='{"a"')], [part(0, arguments=": ")], [part(0, arguments="<1")], []]),
        ((CALL, '{"a"', ":", "1}", NEXT), [[], [part(0, "f"), part(0, arguments='{"a"')], [part(0, arguments=":")], [part(0, arguments="1}")], [call(a=1)]]),
        ((CALL, "print(1)", "{}", NEXT), [[], [], [], []]),                                          # no object, no call
        (("x" * HEADER_CHARS, "y", "z"), [[], [Text("x" * HEADER_CHARS + "y")], [Text("z")]]),
    ],
)  # fmt: skip
def test_only_what_could_begin_a_marker_is_held_back(pieces, expected):
    parser = HarmonyParser(ToolNames.of(()), new_id=lambda: "id0")
    assert [parser.feed(piece) for piece in pieces] == expected


def test_a_call_that_is_lost_stays_in_parts_and_keeps_its_number():
    events, lost = read(CALL + '{"a": 1<|call|>' + CALL + '{"b": 2}')
    assert events == [part(0, "f", '{"a": 1'), part(1, "f", '{"b": 2}'), call(1, b=2)]
    assert lost


WORDS = (
    "",
    " ",
    "\n",
    "<",
    "<|",
    "|>",
    "to=",
    "to=functions.f ",
    "assistant",
    "analysis",
    "final",
    "json",
    "{",
    '{"a": 1}',
    "x" * 300,
)
RAW = st.lists(st.sampled_from((*MARKERS, ANALYSIS, FINAL, CALL, *WORDS)), max_size=20).map("".join)


@given(RAW, st.lists(st.integers(0, 500), max_size=20))
def test_it_does_not_matter_where_the_text_is_cut(raw, cuts):
    bounds = [0, *sorted(cuts), len(raw)]
    pieces = [raw[start:end] for start, end in pairwise(bounds)]
    assert read(*pieces) == read(*raw) == read(raw)


@given(RAW)
def test_every_call_was_told_in_parts(raw):
    told = {}
    for event in read(*raw)[0]:
        match event:
            case CallPart(index, arguments, call_id, name):
                assert index == len(told)
                told[index] = arguments, call_id, name
            case ToolCalls((ToolCall(name, arguments, call_id, index),)):
                assert (json.loads(told[index][0]), *told[index][1:]) == (arguments, call_id, name)


@given(RAW)
def test_no_marker_and_nothing_empty_gets_out(raw):
    events = [event for event in read(raw)[0] if not isinstance(event, ToolCalls)]
    texts = [event.arguments if isinstance(event, CallPart) else event.text for event in events]
    assert all(texts)
    assert not any(marker in text for marker in MARKERS for text in texts)


@pytest.mark.parametrize(
    ("given_names", "seen"),
    [
        (["get_weather"], ["get_weather"]),
        (["get weather", "get-time", "get.date"], ["get_weather", "get_time", "get_date"]),
        (["a/b:c!", "é$_", "x\ny"], ["abc", "é$_", "xy"]),
        (["7zip", "٣"], ["_7zip", "_٣"]),
        (["", "!?"], ["unnamed", "unnamed_2"]),
        (["a_b", "a b", "a-b"], ["a_b", "a_b_2", "a_b_3"]),
        (["a_b_2", "a_b", "a b"], ["a_b_2", "a_b", "a_b_3"]),
        (["f", "f"], ["f", "f"]),                                                   # nothing tells them apart
        (["browser.open", "browser.search", "browser.find", "python"], ["browser.open", "browser.search", "browser.find", "python"]),
        (["browser.close"], ["browser_close"]),
    ],
)  # fmt: skip
def test_the_model_sees_identifiers_and_the_client_its_own_names(given_names, seen):
    names = ToolNames.of([tool(name) for name in given_names])
    assert names.tools == tuple(tool(name) for name in seen)
    assert [names.original(name) for name in seen] == given_names


def test_renaming_changes_nothing_else_of_a_definition():
    odd = [
        {"x": 1, "function": {"strict": True, "name": "a b", "z": [{}]}, "type": "function"},
        {},
        {"function": None},
    ]
    renamed = ToolNames.of(odd).tools
    assert renamed == (
        {"x": 1, "function": {"strict": True, "name": "a_b", "z": [{}]}, "type": "function"},
        *odd[1:],
    )
    assert [list(tool) for tool in renamed] == [list(tool) for tool in odd]
    assert list(renamed[0]["function"]) == ["strict", "name", "z"]
    assert odd[0]["function"]["name"] == "a b"


def test_calls_come_back_under_the_names_the_client_gave():
    raw = "<|channel|>commentary to=functions.a_b_2<|message|>{}<|call|><|channel|>commentary to=functions.new<|message|>{}"
    assert parse(raw, tools=[tool("a-b"), tool("a.b")]) == ([call(name="a.b"), call(1, name="new")], False)


def test_the_history_has_the_models_names():
    names = ToolNames.of([tool("a-b"), tool("a.b")])
    history = (
        Message("user", "a.b"),
        Message(
            "assistant", thinking="Hm.", tool_calls=(ToolCall("a.b", {"x": 1}, "i"), ToolCall("a-b", {}, "j", 1))
        ),
        Message("tool", "1", tool_name="a.b", tool_call_id="i"),
        Message("tool", "2", tool_name="no-longer.offered"),
    )
    assert names.for_model(history) == (
        Message("user", "a.b"),
        Message("assistant", thinking="Hm.", tool_calls=(ToolCall("a_b_2", {"x": 1}, "i"), ToolCall("a_b", {}, "j", 1))),
        Message("tool", "1", tool_name="a_b_2", tool_call_id="i"),
        Message("tool", "2", tool_name="no_longer_offered"),
    )  # fmt: skip


@given(st.lists(st.text("ab_-. 1!"), max_size=6))
def test_what_the_model_repeats_of_the_history_is_what_the_client_meant(given_names):
    names = ToolNames.of([tool(name) for name in given_names])
    history = [Message("assistant", tool_calls=(ToolCall(name, {}),)) for name in given_names]
    seen = [message.tool_calls[0].name for message in names.for_model(history)]
    assert seen == [tool["function"]["name"] for tool in names.tools]
    assert [names.original(name) for name in seen] == given_names
