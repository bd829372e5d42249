"""Replies that are bound to be a call: which, and reading it while it comes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.generation import (
    CallPart,
    ChatInput,
    GenerationRequest,
    PromptInput,
    Text,
    Thinking,
    ToolCalls,
    ToolChoice,
)
from a3s_power.messages import Message, ToolCall
from a3s_power.names import ModelName
from a3s_power.prompt.forced import ForcedReader, forced_tools, offered
from a3s_power.prompt.reading import Markup

TAGS = Markup(("<think>", "</think>"))
HARMONY = Markup(is_harmony=True)
CALL = '{"name": "f", "arguments": {"a": [1, {"}": "{é"}]}}'
ARGUMENTS = '{"a": [1, {"}": "{é"}]}'


def read(markup, *pieces, prompt=""):
    """The events, thoughts and arguments each in one, and whether the call was lost."""
    reader = ForcedReader(markup.reader(prompt, (), ()), lambda: "c")
    told = []
    for event in [event for piece in pieces for event in reader.feed(piece)] + reader.finish():
        match told[-1:], event:
            case [Thinking(before)], Thinking(text):
                told[-1] = Thinking(before + text)
            case [CallPart(0, before, call_id, name)], CallPart(0, text, "", ""):
                told[-1] = CallPart(0, before + text, call_id, name)
            case _:
                told.append(event)
    return told, reader.lost


PARTS, WHOLE = (
    CallPart(0, ARGUMENTS, "c", "f"),
    ToolCalls((ToolCall("f", {"a": [1, {"}": "{é"}]}, "c"),)),
)


@pytest.mark.parametrize(
    ("markup", "prompt", "text", "told"),
    [
        (Markup(), "", CALL, [PARTS, WHOLE]),
        (Markup(), "", "\n " + CALL, [PARTS, WHOLE]),
        (TAGS, "", CALL, [PARTS, WHOLE]),
        (
            TAGS,
            "",
            "<think>\nLet me {call}.</think>\n\n" + CALL,
            [Thinking("Let me {call}."), PARTS, WHOLE],
        ),
        (TAGS, "<think>\n", "Hm.</think>\n" + CALL, [Thinking("Hm."), PARTS, WHOLE]),
        (HARMONY, "", "<|channel|>final<|message|>" + CALL, [PARTS, WHOLE]),
        (
            HARMONY,
            "",
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>" + CALL,
            [Thinking("Hm."), PARTS, WHOLE],
        ),
    ],
)
def test_the_call_is_told_in_parts_and_whole_wherever_it_is_cut(markup, prompt, text, told):
    assert read(markup, text, prompt=prompt) == read(markup, *text, prompt=prompt) == (told, False)


def test_it_is_told_while_it_comes():
    reader = ForcedReader(Markup().reader("", (), ()), lambda: "c")
    pieces = ['{"name": "f', '", "arguments": ', '{"a', '": 1', "}", "}"]
    assert [reader.feed(piece) for piece in pieces] == [
        [],
        [],
        [CallPart(0, "", "c", "f"), CallPart(0, '{"a')],
        [CallPart(0, '": 1')],
        [CallPart(0, "}")],
        [ToolCalls((ToolCall("f", {"a": 1}, "c"),))],
    ]


@pytest.mark.parametrize("end", range(len(CALL)))
def test_a_call_that_is_cut_off_is_lost_and_never_text(end):
    told, lost = read(TAGS, CALL[:end])
    assert lost
    begins = CALL.index(ARGUMENTS)
    assert told == ([CallPart(0, CALL[begins:end][: len(ARGUMENTS)], "c", "f")] if end > begins else [])


def test_arguments_that_are_nested_without_end_are_lost():
    told, lost = read(Markup(), '{"name": "f", "arguments": ' + '{"a":' * 9999 + "1" + "}" * 10000)
    assert lost
    assert [type(event) for event in told] == [CallPart]


@given(st.lists(st.integers(0, len(CALL) + 30), max_size=8))
def test_any_way_to_cut_it_reads_the_same(cuts):
    text = "<think>a{b</think>" + CALL
    pieces = [text[start:end] for start, end in pairwise([0, *sorted(cuts), len(text)])]
    assert read(TAGS, *pieces) == ([Thinking("a{b"), PARTS, WHOLE], False)


@pytest.mark.parametrize(("raw", "name"), [('a"b', 'a\\"b'), ("é\n", "é\\n")])
def test_names_are_json(raw, name):
    (part, _), _ = read(Markup(), f'{{"name": "{name}", "arguments": {{}}}}')
    assert part.name == raw


# ---- who must call what ----


def tool(name):
    return {"type": "function", "function": {"name": name}}


A, B = tool("a"), tool("b")


def request(choice, *tools):
    given = ChatInput((Message("user", "Hi"),), tools)
    return GenerationRequest(ModelName.parse("m"), "m", given, tool_choice=choice)


@pytest.mark.parametrize(
    ("choice", "tools", "forced"),
    [
        (ToolChoice(), [A, B], []),
        (ToolChoice(is_allowed=False), [A, B], []),
        (ToolChoice(is_required=True), [A, B], [A, B]),
        (ToolChoice(is_required=True, name="b"), [A, B], [B]),
        (ToolChoice(name="b"), [A, B], [B]),
        (ToolChoice(name="c"), [A, B], []),
        (ToolChoice(is_required=True), [], []),
    ],
)
def test_the_tools_of_which_one_must_be_called(choice, tools, forced):
    assert list(forced_tools(request(choice, *tools))) == forced


def test_a_prompt_is_no_conversation_and_calls_nothing():
    prompt = GenerationRequest(
        ModelName.parse("m"), "m", PromptInput("Hi"), tool_choice=ToolChoice(is_required=True)
    )
    assert (forced_tools(prompt), offered(prompt)) == ((), prompt)


def test_where_no_call_is_allowed_no_tool_is_offered():
    assert offered(request(ToolChoice(is_allowed=False), A)).input.tools == ()
    for choice in (ToolChoice(), ToolChoice(is_required=True), ToolChoice(name="a")):
        assert offered(request(choice, A)) == request(choice, A)


def test_what_is_no_thought_and_no_call_is_not_told():
    assert read(Markup(), "Hello") == ([], True)
    assert not any(isinstance(event, Text) for event in read(TAGS, "<think>a</think>Hello")[0])
