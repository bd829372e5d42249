"""Tool calls are found in a model's text, and nothing that was begun as one is taken for an answer."""

import itertools
import json
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3s_power.generation import CallPart, Text, ToolCalls
from a3s_power.messages import ToolCall
from a3s_power.prompt.tags import overlap, preserved, tool_tag
from a3s_power.prompt.template import GoTemplate
from a3s_power.prompt.toolcalls import ToolCallParser, new_call_id

NAMES = ("get", "get_weather", "search", "get_weather")
PARIS = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
ROME = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
IN_PARIS, IN_ROME = ("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})


@dataclass
class Reply:
    """What comes of a text."""

    found: list
    """Texts and (name, arguments) in order, neighbouring texts joined."""
    lost: bool
    told: dict
    """Index → name and arguments of what was told in parts, the arguments joined."""


def read(tag, *pieces, names=NAMES):
    ids = itertools.count()
    parser = ToolCallParser(tag, names, lambda: f"call_{next(ids)}")
    found, told, indices = [], {}, []
    for event in [*itertools.chain(*(parser.feed(piece) for piece in pieces)), *parser.finish()]:
        match event:
            case CallPart(index, "", call_id, name) if name:  # the first one
                assert call_id == f"call_{index}"
                assert all(index > other for other in (*told, *indices))
                told[index] = name, ""
            case CallPart(index, arguments, "", ""):
                assert arguments
                assert index == max(told) not in indices  # one call after the other, and nothing behind its end
                told[index] = told[index][0], told[index][1] + arguments
            case ToolCalls((ToolCall(name, arguments, call_id, index),)):
                assert call_id == f"call_{index}"
                assert all(index > other for other in indices)
                if index in told:
                    assert (told[index][0], json.loads(told[index][1])) == (name, arguments)
                indices.append(index)
                found.append((name, arguments))
            case Text(text):
                assert text
                found[-1:] = [found[-1] + text] if found and isinstance(found[-1], str) else [*found[-1:], text]
    return Reply(found, parser.lost, told)


def parse(tag, *pieces, names=NAMES):
    """Texts and (name, arguments) in order, and whether a call was lost."""
    reply = read(tag, *pieces, names=names)
    return reply.found, reply.lost


def agreed(tag, text, names=NAMES):
    """The same of the text, whole and character by character."""
    whole = read(tag, text, names=names)
    assert read(tag, *text, names=names) == whole
    return whole.found, whole.lost


# ---- a tag ----


@pytest.mark.parametrize(
    ("tag", "text", "expected"),
    [
        ("<tool_call>", "", []),
        ("<tool_call>", "Hello", ["Hello"]),
        ("<tool_call>", PARIS, [PARIS]),  # no tag, no call
        ("<tool_call>", f"<tool_call>\n{PARIS}\n</tool_call>", [IN_PARIS]),
        ("<tool_call>", f"Let me see. <tool_call>{PARIS}</tool_call> Bye", ["Let me see. ", IN_PARIS]),
        (
            "<tool_call>",
            f"<tool_call>\n{PARIS}\n</tool_call>\n<tool_call>\n{ROME}\n</tool_call>",
            [IN_PARIS, IN_ROME],
        ),
        ("[TOOL_CALLS] [", f"[TOOL_CALLS] [{PARIS}, {ROME}]", [IN_PARIS, IN_ROME]),
        ("[TOOL_CALLS]", f"[TOOL_CALLS] [{PARIS}, {ROME}]", [IN_PARIS, IN_ROME]),
        ("[TOOL_CALLS]", '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}search{}', [IN_PARIS, ("search", {})]),
        ("<|python_tag|>", f"<|python_tag|>{PARIS}; {ROME}", [IN_PARIS, IN_ROME]),
        ("<function=", '<function=get_weather>{"city": "Paris"}</function>', [IN_PARIS]),
        ("Action:", "Action: ```json\n" + f"[{PARIS}]```", [IN_PARIS]),
    ],
)
def test_calls_stand_behind_the_tag(tag, text, expected):
    assert agreed(tag, text) == (expected, False)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["Hi <", "b> <tool", "_box> <to"], [[Text("Hi ")], [Text("<b> ")], [Text("<tool_box> ")], [Text("<to")]]),
        (["1 <"], [[Text("1 ")], [Text("<")]]),
        (["Hi <tool_", "call>", PARIS, "\n"], [[Text("Hi ")], [], [IN_PARIS], [], []]),
        ([f"Hi <tool_call>{PARIS} Bye"], [[Text("Hi "), IN_PARIS], []]),  # nothing is dropped
        (["<tool_call>" + PARIS[:-1], "}" + ROME[:-1], "}"], [[], [IN_PARIS], [IN_ROME], []]),
        (["<tool_call>" + PARIS + ROME], [[IN_PARIS, IN_ROME], []]),
    ],
)
def test_what_is_certain_is_not_held_back(pieces, expected):
    parser = ToolCallParser("<tool_call>", NAMES)
    events = [*(parser.feed(piece) for piece in pieces), parser.finish()]
    assert [[shown(e) for e in told if not isinstance(e, CallPart)] for told in events] == expected


def shown(event):
    return event if isinstance(event, Text) else (event.calls[0].name, event.calls[0].arguments)


# ---- parts ----


@pytest.mark.parametrize(
    ("tag", "pieces", "expected"),
    [
        (
            "<tool_call>",
            ['<tool_call>{"name": "get", "arg', 'uments": ', '{"a', '": [', "1", "]", "}", "}", "</tool_call>"],
            [[], [], ["get", '{"a'], ['": ['], ["1"], ["]"], ["}"], [("get", {"a": [1]})], []],
        ),
        ("{", ['{"name":"get","parameters":{', '"a":"}\\"', '{"}', "}"], [["get", "{"], ['"a":"}\\"'], ['{"}'], [("get", {"a": '}"{'})]]),
        ("[", ["[" + PARIS[:-1], "}, ", PARIS + "]"], [["get_weather", '{"city": "Paris"}'], [IN_PARIS], ["get_weather", '{"city": "Paris"}', IN_PARIS]]),
        # The brace that ends the call, and whatever else follows, is none of the arguments.
        ("{", ['{"name": "get", "arguments": {}', ' , "id', '": {"a": 1}', "}"], [["get", "{}"], [], [], [("get", {})]]),
        # It is a call from where its arguments begin, whatever comes of it.
        ("{", ['{"name": "get", "arguments": {"a": 1', " 'b'"], [["get", '{"a": 1'], [" "]]),
        # Any other shape may yet turn out to call something else.
        ("{", ['{"arguments": {"a": 1}, "name": ', '"get"}'], [[], [("get", {"a": 1})]]),
        ("{", ['{"name": "get", "arguments": "{', '}"}'], [[], [("get", {})]]),
        ("{", ['{"id": 1, "name": "get", "arguments": {"a"', ": 1}}"], [[], [("get", {"a": 1})]]),
        ("{", ['{"name": "functions.get", "arguments": {"a"', ": 1}}"], [[], [("get", {"a": 1})]]),
        ("{", ['{"get": {"a"', ": 1}}"], [[], [("get", {"a": 1})]]),
        ("{", ['[[{"function": {"name": "get", "arguments": {"a"', ": 1}}}"], [[], [("get", {"a": 1})]]),
        ("[A]", ['[A]get{"name": {"a"', ": 1}}"], [[], [("get", {"name": {"a": 1}})]]),
        ("{", ['{"name": "other", "arguments": {"a": 1}', "}"], [[], [Text('{"name": "other", "arguments": {"a": 1}}')]]),
    ],
)  # fmt: skip
def test_a_call_of_the_usual_shape_is_told_while_it_comes(tag, pieces, expected):
    parser = ToolCallParser(tag, NAMES)
    told = [
        [e.name or e.arguments if isinstance(e, CallPart) else shown(e) for e in parser.feed(p)] for p in pieces
    ]
    assert told == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PARIS[:-1], '{"city": "Paris"}'),
        (PARIS[:-1] + "]", '{"city": "Paris"}'),
        (PARIS[:-2] + "]", '{"city": "Paris"'),
        (PARIS[:-3] + "}}", '{"city": "Paris}}<tool_call>{"'),  # up to where it cannot be JSON
        (PARIS.replace('"Paris"', "NaN"), '{"city": '),
    ],
)
def test_a_broken_call_stays_in_parts_and_keeps_its_number(text, told):
    for pieces in ([text, "<tool_call>", ROME], text + "<tool_call>" + ROME):
        reply = read("<tool_call>", "<tool_call>", *pieces)
        assert (reply.found, reply.lost) == ([IN_ROME], True)
        assert reply.told == {0: ("get_weather", told), 1: ("get_weather", '{"city": "Rome"}')}


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get", "arguments": {"a": 1}, "name": "search"}',
        '{"name": "get", "arguments": {"a": 1}, "arguments": {"a": 2}}',
        '{"name": "get", "parameters": {"a": 1}, "arguments": {"a": 2}}',
        '{"name": "search", "name": "get", "arguments": {"a": 1}}',
    ],
)
def test_what_was_told_of_a_call_stays_told(text):
    assert agreed("{", text) == ([("get", {"a": 1})], False)


# ---- what an object calls ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "search", "parameters": {"q": 1}}', [("search", {"q": 1})]),
        ('{"parameters": {"q": 1}, "name": "search"}', [("search", {"q": 1})]),
        (r'{"name": "search", "arguments": "{\"q\": 1}"}', [("search", {"q": 1})]),
        ('{"name": "search", "arguments": null}', [("search", {})]),
        ('{"name": "search", "arguments": ""}', [("search", {})]),
        ('{"name": "search", "arguments": null, "parameters": {"q": 1}}', [("search", {"q": 1})]),
        ('{"name": "search"}', [("search", {})]),
        ('{"name": "functions.search", "arguments": {}}', [("search", {})]),
        ('{"tool_name": "search", "parameters": {"q": 1}}', [("search", {"q": 1})]),
        ('{"type": "function", "function": {"name": "search", "arguments": {"q": 1}}}', [("search", {"q": 1})]),
        ('{"type": "function", "function": "search", "parameters": {"q": 1}}', [("search", {"q": 1})]),
        ('{"search": {"q": 1}}', [("search", {"q": 1})]),
        ('{"calls": [{"search": {"q": 1}}, {"get": {}}]}', [("search", {"q": 1}), ("get", {})]),
        (f'{{"tool_calls": [{PARIS}, {ROME}]}}', [IN_PARIS, IN_ROME]),
        ('{"tool": "search", "q": 1}', [("search", {"tool": "search", "q": 1})]),
        ('{"name": "get", "arguments": {}}', [("get", {})]),
        ('{"name": "get_weather", "arguments": {"name": "search"}}', [("get_weather", {"name": "search"})]),
        (r'{"name": "search", "arguments": {"q": "}{ \" <tool_call> é\\"}}', [("search", {"q": '}{ " <tool_call> é\\'})]),
        ('{"name": "search", "arguments": {"a": [1.5e3, -2, true, null, {"b": []}]}}', [("search", {"a": [1500.0, -2, True, None, {"b": []}]})]),
    ],
)  # fmt: skip
def test_an_object_names_its_tool_itself(text, expected):
    assert agreed("<tool_call>", "<tool_call>" + text) == (expected, False)
    assert agreed("{", text) == (expected, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('get{"a": 1}', [("get", {"a": 1})]),
        ('get_weather{"a": 1}', [("get_weather", {"a": 1})]),  # the longest name
        ('functions.get_weather:0 {"a": 1}', [("get_weather", {"a": 1})]),
        ('search, not get_weather: {"a": 1}', [("search", {"a": 1})]),  # the first of them
        ('search{"name": "Bob"}', [("search", {"name": "Bob"})]),
        ('search{"q": "get_weather"}', [("search", {"q": "get_weather"})]),
        ('search {"name": "x", "arguments": {"q": 1}}', [("search", {"q": 1})]),
        ('search {"name": "get", "arguments": {"q": 1}}', [("get", {"q": 1})]),
    ],
)
def test_else_the_text_before_it_does(text, expected):
    assert agreed("[TOOL_CALLS]", "[TOOL_CALLS]" + text) == (expected, False)


def test_a_tool_may_be_called_like_its_tag():
    calls = f"<tool>{PARIS}</tool><tool>" + '{"name": "tool", "arguments": {}}'
    assert agreed("<tool>", calls, ("tool", "get_weather")) == ([IN_PARIS, ("tool", {})], False)


def test_arguments_keep_their_order():
    [(_, arguments)], _ = agreed("{", '{"name": "get", "arguments": {"z": 1, "a": 2, "m": 3}}')
    assert list(arguments) == ["z", "a", "m"]


def test_names_are_no_patterns():
    assert agreed("{", '{"name": "a.b(", "arguments": {}}', ("a.b(", "[", "")) == ([("a.b(", {})], False)


# ---- calls that cannot be read ----


@pytest.mark.parametrize(
    "bad",
    [
        PARIS[:-1],  # a brace is missing
        PARIS[:-3] + "}}\n",  # a quote is missing
        PARIS[:-3] + "}}",
        PARIS.replace(",", ""),
        PARIS.replace('"', "'"),
        PARIS.replace('"name"', "“name”"),
        PARIS.replace('"Paris"', '"a\nb"'),
        PARIS.replace('"Paris"', "Paris"),
        PARIS.replace('"Paris"', r'"\ud800"'),
        PARIS.replace('"Paris"', "NaN"),
        PARIS.replace('"Paris"', '{"a":' * 2000 + "1" + "}" * 2000),
        PARIS.replace('{"city": "Paris"}', '"Paris"'),
        PARIS.replace('{"city": "Paris"}', "[1]"),
        "{" + PARIS + "}",
        PARIS.replace("get_weather", "get_wether"),
        PARIS.replace("get_weather", "get_weather_v2"),
        '{"city": "get weather in Paris"}',
        "get_weather(city='Paris')",
        "get_weather{'options': {\"city\": 1}}",
        "",
    ],
)
def test_one_bad_call_is_lost_and_does_not_hide_the_next(bad):
    text = f"Hi <tool_call>{bad}</tool_call><tool_call>{ROME}</tool_call>"
    found, lost = agreed("<tool_call>", text)
    assert found[0] == "Hi "
    assert found[-1] == IN_ROME
    assert lost


@pytest.mark.parametrize("end", range(1, len(PARIS)))
def test_a_call_that_is_cut_off_is_lost(end):
    after_another = f"Hi <tool_call>{ROME}</tool_call><tool_call>{PARIS[:end]}"
    assert agreed("<tool_call>", after_another) == (["Hi ", IN_ROME], True)
    assert agreed("<tool_call>", "<tool_call>" + PARIS[:end]) == ([], True)
    assert agreed("{", PARIS[:end]) == ([], True)
    assert agreed("[", "[" + PARIS[:end]) == ([], True)
    assert agreed("{", ROME + "\n" + PARIS[:end]) == ([IN_ROME], True)


@pytest.mark.parametrize(
    "text", ["<tool_call>", "<tool_call>\n", f"<tool_call>{PARIS}<tool_call>", "<tool_call>Hm."]
)
def test_a_tag_without_a_call_is_lost(text):
    found, lost = agreed("<tool_call>", text)
    assert lost
    assert not any(isinstance(each, str) for each in found)


# ---- tags that are JSON themselves ----


@pytest.mark.parametrize("tag", ["{", "["])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PARIS, [IN_PARIS]),
        (f"\n {PARIS}", ["\n ", IN_PARIS]),
        (f"[{PARIS}, {ROME}]", [IN_PARIS, IN_ROME]),
        (f"{PARIS}\n{ROME}", [IN_PARIS, IN_ROME]),
        (f"{PARIS}; {ROME}; Done.", [IN_PARIS, IN_ROME]),
        (f"[{PARIS}] [{ROME}]", [IN_PARIS, IN_ROME]),
    ],
)
def test_a_bare_tag_takes_a_reply_that_begins_as_json(tag, text, expected):
    assert agreed(tag, text) == (expected, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "Hello",
        f"Let me see: {PARIS}",  # prose first: no calls
        '{"temp": 3}',
        '{"temp": 3} is what I found. {"x": 1}',
        "[1, 2]",
        "[]",
        "{}",
        "[{}, {}]",
        '[{"temp": 3}, {"temp": [4, {"deep": "]}"}]}] as asked',
        '["a]", "}"] and more',
        "[[[1], 2], 3",
        '{"name": "Paris", "arguments": {"by": "Rome"}}',
        '{"answer": "I could search for it, or get_weather."}',
        '{"tools": ["search", "get"]}',
        '["get_weather", "search"]',
        '{"temp": 3, "unit": "C", "wi',  # cut off, but no call
        '{"temp": 3, ',
        '[{"temp": 3}, {"te',
        '{"note": "to search or',
        "{x | x > 0} is a set",
        "{ foo(); } is a block, {",
        "{'temp': 3}",
        '{"temp": 3 "x"}',
        "[Note: search, then get (or not)] Hello",
        "[Scene: a dark night",
        '[I would use "search" for it]',
    ],
)
def test_an_answer_in_json_comes_out_whole(text):
    assert agreed("{", text) == ([text] if text else [], False)
    assert agreed("[", text) == ([text] if text else [], False)


def test_an_answer_is_passed_on_as_soon_as_its_first_value_ends():
    parser = ToolCallParser("{", NAMES)
    pieces = ['{"temp"', ": 3}", " as", PARIS]
    assert [parser.feed(piece) for piece in pieces] == [[], [Text('{"temp": 3}')], [Text(" as")], [Text(PARIS)]]
    assert parser.finish() == []


@pytest.mark.parametrize(
    "text",
    [
        "{'name': 'get_weather', 'arguments': {'city': 'Paris'}} there.",
        '{name: get_weather, "arguments": {"city": "Paris"}}',
        '{"name": "get_weather" "arguments": {"city": "Paris"}}',
        '{"name": "get_weather", "arguments": {"city": <b>Paris</b>}}',
        '{"name": "get_weather", "arguments": {"city": "Paris"},}',
        '{"name": "get_weather", "arguments": "Paris"}',
        '{"get_weather": {"city": Paris}}',
        r"{\"name\": \"get_weather\", \"arguments\": {}}",
        '[get_weather(city="Paris")] there.',
        '[search(q="a"), get_wea',
        '{"type": "function", "function": {"name": "get_wea',
        '{"type": "fun',
        '{"arguments": {"city": "Pa',
        '{"id": 3, "name": "get_wea',
        "{'name': 'get_wea",
        '[\n  {\n    "na',
        '{"get_wea',
    ],
)
def test_what_looks_like_a_failed_call_is_no_answer(text):
    assert agreed("{", text) == ([], True)
    assert agreed("[", text) == ([], True)


@pytest.mark.parametrize("separator", ["\n", "; ", ", "])
def test_behind_a_failed_call_the_next_is_found(separator):
    assert agreed("{", PARIS[:-1] + separator + ROME) == ([IN_ROME], True)
    assert agreed("{", PARIS.replace(",", "") + separator + ROME + " there") == ([IN_ROME], True)
    assert agreed("[", f"[{PARIS[:-1]}{separator}{ROME}]") == ([IN_ROME], True)
    assert agreed("[TOOL_CALLS]", f"[TOOL_CALLS][{PARIS[:-1]}][TOOL_CALLS][{ROME}]") == ([IN_ROME], True)


# ---- any text ----

WORDS = (
    PARIS, ROME, PARIS[:-1], PARIS[:-3], "<tool_call>", "</tool_call>", "<tool", "[TOOL_CALLS]", "get", "get_weather",
    '{"', '"', "{", "}", "[", "]", ",", ":", "\\", "\n", " ", "1", "true", "'", "é", '{"temp": 3}', '"name"', "search",
)  # fmt: skip


@pytest.mark.parametrize("tag", ["<tool_call>", "[TOOL_CALLS]", "{", "["])
@given(data=st.data())
def test_any_way_to_cut_a_text_reads_the_same(tag, data):
    text = "".join(data.draw(st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=14)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found, lost = agreed(tag, text)
    assert read(tag, *pieces) == read(tag, text)
    assert read(tag, text).lost == lost
    assert tag in "{[" or not any(tag in each for each in found if isinstance(each, str))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8).filter(lambda text: text not in NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5).filter(lambda k: k not in NAMES), inner, max_size=3),
    max_leaves=12,
).filter(lambda value: isinstance(value, (list, dict)))  # fmt: skip


@given(JSON, st.booleans())
def test_any_json_that_names_no_tool_is_an_answer(value, is_ascii):
    text = json.dumps(value, ensure_ascii=is_ascii)
    assert agreed("{", text) == ([text], False)


@pytest.mark.parametrize("tag", ["{", "<tool_call>"])
@pytest.mark.parametrize(
    "unit",
    [
        "[",
        "{",
        '{"a":',
        '{"a":[',
        "<tool_call>{",
        '<tool_call>{"a',
        '[{"a":1},',
        '{"get_weather":',
        "<t",
        "\\",
        '"',
    ],
)
def test_endless_nesting_and_endless_junk_are_read_once(tag, unit):
    text = unit * (100_000 // len(unit)) + "}]" * 1000
    assert parse(tag, "<tool_call>" + text)[0] in ([], ["<tool_call>" + text])
    assert parse(tag, *text) == parse(tag, text)


def test_ids_are_ollama_s():
    ids = {new_call_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("call_[a-z0-9]{8}", each) for each in ids)


def test_every_call_has_an_id_of_its_own():
    events = ToolCallParser("{", NAMES).feed(f"[{PARIS}, {ROME}]")
    assert len({event.calls[0].id for event in events if isinstance(event, ToolCalls)}) == 2


# ---- tags in templates ----

QWEN = """{{- if or .System .Tools }}<|im_start|>system
{{ .System }}{{ if .Tools }}<tools>{{ range .Tools }}{{ .Function }}{{ end }}</tools>
answer in <tool_call>{"name": …}</tool_call>{{ end }}<|im_end|>{{ end }}
{{- range $i, $m := .Messages }}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"""
HERMES = """{{ range .Messages }}{{ if and (eq .Role "assistant") .ToolCalls }}
{{ range .ToolCalls }}
<tool_call>
{"name": "{{ .Function.Name }}"}
</tool_call>
{{ end }}{{ end }}{{ end }}"""
MISTRAL = """{{ range .Messages }}{{ if .Content }}{{ .Content }}{{ else if .ToolCalls }}[TOOL_CALLS] [
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}"}{{ end }}]</s>{{ end }}{{ end }}"""
MISTRAL_ARGS = """{{ range .Messages }}{{ if .ToolCalls }}{{ range $i, $c := .ToolCalls }}{{ $f := .Function }}
[TOOL_CALLS]{{ $f.Name }}[ARGS]{{ $f.Arguments }}{{ end }}{{ end }}{{ end }}"""
LLAMA = """{{ range .Messages }}{{ if eq .Role "assistant" }}<|start_header_id|>assistant<|end_header_id|>
{{ if .ToolCalls }}
{{ range .ToolCalls }}
{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}
{{ else }}{{ .Content }}{{ end }}<|eot_id|>{{ end }}{{ end }}"""
LLAMA_CODE = "{{ range .Messages }}{{ with .ToolCalls }}no{{ end }}{{ if .ToolCalls }}<|python_tag|>{{ .ToolCalls }}{{ end }}{{ end }}"


@pytest.mark.parametrize(
    ("template", "tag", "token"),
    [
        (QWEN, "<tool_call>", "<tool_call>"),
        (HERMES, "<tool_call>", "<tool_call>"),
        (MISTRAL, "[TOOL_CALLS] [", "[TOOL_CALLS]"),
        (MISTRAL_ARGS, "[TOOL_CALLS]", "[TOOL_CALLS]"),
        (LLAMA, "{", None),
        (LLAMA_CODE, "<|python_tag|>", "<|python_tag|>"),
        ("{{ .Messages }}", "{", None),
        ("{{ if .ToolCalls }}{{ end }}<tool_call>", "{", None),
        ("{{ if .ToolCalls }}{{ .ToolCalls }}<tool_call>{{ end }}", "{", None),  # printed before
        ("{{ if .ToolCalls }}{{ if .Content }}{{ .Content }}{{ end }}<tool_call>{{ end }}", "<tool_call>", "<tool_call>"),
        ("{{ if .ToolCalls }}{{ if .X }}{{ else }}<a>{{ end }}<b>{{ end }}", "<a>", "<a>"),
        ("{{ if .ToolCalls }}{{ with .X }} {{ end }}<b>{{ end }}{{ if .ToolCalls }}<c>{{ end }}", "<b>", "<b>"),
        ("{{ if .X }}<a>{{ else if (len .M.ToolCalls) }}<b>{{ end }}", "<b>", "<b>"),
        ("{{ if .ToolCalls }}[{{ end }}", "[", None),
        ('{{ if .ToolCalls }}Action: ```json\n[{"x": 1}]{{ end }}', "Action: ```json\n[", None),
    ],
)  # fmt: skip
def test_the_tag_is_the_first_text_where_a_template_writes_calls(template, tag, token):
    assert tool_tag(GoTemplate.parse(template).tree) == tag
    assert preserved(tag) == token


@pytest.mark.parametrize(
    ("text", "tag", "size"),
    [("", "<t>", 0), ("a <t", "<t>", 2), ("a <t>", "<t>", 0), ("<<", "<<x", 2), ("<<<", "<<x", 2), ("[", "[", 0)],
)
def test_overlap_is_what_could_begin_a_tag(text, tag, size):
    assert overlap(text, tag) == size
