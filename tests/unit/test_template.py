"""Go templates: what they print of a conversation, and that none of them can hurt us."""

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a3s_power.errors import InvalidRequest, InvalidTemplate
from a3s_power.messages import Message, ToolCall
from a3s_power.prompt.goparse import MAX_TEMPLATE_CHARS
from a3s_power.prompt.tags import thinking_tags
from a3s_power.prompt.template import GoTemplate, collate

CHATML = """\
{{- if or .System .Tools }}<|im_start|>system
{{ .System }}
{{- range .Tools }}
{{ .Function }}
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Thinking }}<think>{{ .Thinking }}</think>
{{ end }}{{ .Content }}
{{- if .ToolCalls }}<tool_call>
{{ range $m.ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>tool
{{ .Content }}<|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""
LLAMA3 = (
    "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
MISTRAL = (
    '{{- range $i, $_ := .Messages }}{{- if eq .Role "user" }}'
    "{{- if and $.Tools (le (len (slice $.Messages $i)) 2) }}[AVAILABLE_TOOLS] {{ $.Tools }}[/AVAILABLE_TOOLS]"
    "{{- end }}[INST] {{ .Content }}[/INST]"
    "{{- else if .ToolCalls }}[TOOL_CALLS] ["
    '{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}]'
    "{{- else }} {{ .Content }}</s>{{ end }}{{ end }}"
)
ALPACA = (
    "{{ if .System }}{{ .System }}\n\n{{ end }}"
    "{{ if .Prompt }}### Instruction:\n{{ .Prompt }}\n\n{{ end }}### Response:\n{{ .Response }}\n\n"
)
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"b": {"type": "number", "minimum": 1}, "a": {}}},
    },
}
TOOL_JSON = (
    '{"name":"add","description":"","parameters":{"type":"object","properties":{"a":{},"b":{"type":"number"}}}}'
)


def system(content):
    return Message("system", content)


def user(content):
    return Message("user", content)


def assistant(content, **more):
    return Message("assistant", content, **more)


CALL = assistant("", tool_calls=(ToolCall("add", {"b": 2, "a": "<1>"}),))
CALL_JSON = '{"name": "add", "arguments": {"a":"\\u003c1\\u003e","b":2}}'


def render(text, data=(), **more):
    return GoTemplate.parse(text + "{{ if false }}{{ .Messages }}{{ end }}").render_chat(data, **more)


@pytest.mark.parametrize(
    ("template", "messages", "tools", "expected"),
    [
        (CHATML, [user("hi")], [], "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
        (
            CHATML,
            [system("a"), system("b"), user("hi")],
            [TOOL],
            f"<|im_start|>system\na\n\nb\n{TOOL_JSON}<|im_end|>\n"
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (  # a trailing assistant message is a prefill: its turn stays open
            CHATML,
            [user("hi"), assistant("well,")],
            [],
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nwell,",
        ),
        (
            CHATML,
            [CALL, Message("tool", "3"), Message("tool", "4")],
            [],
            f"<|im_start|>assistant\n<tool_call>\n{CALL_JSON}\n</tool_call><|im_end|>\n"
            "<|im_start|>tool\n3<|im_end|>\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\n",
        ),
        (CHATML, [assistant("b", thinking="a")], [], "<|im_start|>assistant\n<think>a</think>\nb"),
        (
            LLAMA3,
            [system("s"), user("a"), user("b")],
            [],
            "<|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\na\n\nb<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            MISTRAL,
            [user("a"), assistant("b"), user("c"), CALL],
            [TOOL],
            "[INST] a[/INST] b</s>"
            f'[AVAILABLE_TOOLS] [{{"type":"function","function":{TOOL_JSON}}}][/AVAILABLE_TOOLS]'
            f"[INST] c[/INST][TOOL_CALLS] [{CALL_JSON}]",
        ),
        (ALPACA, [system("s"), user("a")], [], "s\n\n### Instruction:\na\n\n### Response:\n"),
    ],
)
def test_a_conversation_becomes_a_prompt(template, messages, tools, expected):
    assert GoTemplate.parse(template).render_chat(messages, tools) == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "[]"),
        ([user("a")], "[]a>"),
        ([system("s"), user("a")], "[s]a>"),
        ([user("a"), assistant("b"), user("c")], "[]a>b.[]c>"),
        ([user("a"), system("s"), user("b")], "[]a>.[s]b>"),  # a system message starts a new round
        ([system("s"), assistant("b"), user("c")], "[s]b.[]c>"),
        ([user("a"), assistant("b")], "[]a>"),  # cut before the response: nothing to go on from
        ([user("a"), Message("tool", "t")], "[]a>"),  # other roles are not seen
    ],
)
def test_an_older_template_gets_one_round_after_the_other(messages, expected):
    template = GoTemplate.parse("[{{ .System }}]{{ with .Prompt }}{{ . }}>{{ end }}{{ .Response }}.")
    assert template.render_chat(messages) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a{{ .Response }}b", "a"),
        ("{{ .Prompt }}", "q"),  # {{ .Response }} is appended
        ("a{{ if .Response }}b{{ end }}c", "a"),
        ("a{{ if .Prompt }}b{{ .Response }}c{{ else }}d{{ end }}e", "ab"),
        ("{{ if .System }}{{ .Response }}{{ end }}e", ""),  # cut where it stands, taken or not
        ("a{{ $.Response }}b", "a"),
        ('{{ define "r" }}{{ .Response }}!{{ end }}a{{ template "r" . }}b', "a!b"),  # no node of the root's
    ],
)
def test_a_legacy_prompt_ends_where_the_response_begins(template, expected):
    assert GoTemplate.parse(template).render_chat([user("q"), assistant("r")]) == expected


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (None, "false[]false"),
        (False, "false[]true"),
        (True, "true[medium]true"),
        ("low", "true[low]true"),
        ("max", "true[max]true"),
    ],
)
def test_thinking_is_told_in_three_values(think, expected):
    text = "{{ .Think }}[{{ .ThinkLevel }}]{{ .IsThinkSet }}"
    assert render(text, think=think) == expected
    assert GoTemplate.parse(text).render_chat([], think=think) == expected
    assert GoTemplate.parse(text).render_insert("a", "b", think) == expected


def test_insert_has_its_own_values():
    template = GoTemplate.parse("<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ .Response }}{{ .System }}{{ .Messages }}")
    assert template.render_insert("a", "b") == "<P>a<S>b<M><no value><no value>"


def test_neighbours_of_one_role_are_merged():
    merged = collate([user("a"), Message("user", "b", images=(b"x",)), Message("tool", "c"), Message("tool", "d")])
    assert merged == [user("a\n\nb"), Message("tool", "c"), Message("tool", "d")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ .Unknown }}{{ if .Unknown }}x{{ end }}", "<no value>"),
        ('{{ eq .Unknown "x" }}', "false"),  # nil compares with everything
        ('{{ eq 1 2 1 }}{{ ne "a" "b" }}{{ lt 1 2 }}{{ le 2 2 }}{{ gt 1.5 2.5 }}{{ ge "b" "a" }}',
         "true" * 4 + "falsetrue"),
        ('{{ and 1 "" 2 }}|{{ or 0 "x" .A.B }}|{{ not 0 }}', "|x|true"),
        ('{{ "x" | printf "%s-%s" "y" }}', "y-x"),
        ("{{ range $k, $v := 3 | and 3 }}{{ end }}", None),  # a number gives no second variable
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ("{{ range 4 }}{{ if eq . 1 }}{{ continue }}{{ else if eq . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}",
         "02"),
        ("{{ range .Tools }}x{{ else }}none{{ end }}", "none"),
        ("{{ with .Unknown }}x{{ else with 1 }}{{ . }}{{ end }}", "1"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ end }}{{ $x }}", "2"),
        ('{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" 1 }}{{ block "b" 2 }}{{ . }}{{ end }}', "<1>2"),
        ('{{ len "é" }} {{ slice "abc" 1 2 }} {{ index "a" 0 }}', "2 b 97"),
        ('{{ print "a" 1 2 "b" nil }}|{{ println 1 "a" }}', "a1 2b<nil>|1 a\n"),
        ('{{ printf "%5d|%-3s|%03d|%q|%v|%t|%.2f|%x|%%|%d|%s" 1 "a" 7 "b" true false 1.5 255 "s" }}',
         '    1|a  |007|"b"|true|false|1.50|ff|%|%!d(string=s)|%!s(MISSING)'),
        ('{{ html "<a>" }} {{ urlquery "a b" }} {{ js "\'" }}', "&lt;a&gt; a+b \\'"),
        ('{{ json "<é>" }}{{ json .Unknown }}', '"\\u003cé\\u003e"null'),
        ("{{ 1000000.0 }} {{ 0.5 }} {{ 'a' }} {{ 0x10 }} {{ `r` }}", "1e+06 0.5 97 16 r"),
        ("{{ 0755 }} 00000000000000000000 {{ `00000000000000000000` }}", "493 " + "0" * 20 + " " + "0" * 20),
        ("{{ currentDate }} {{ yesterdayDate `2006` }}", "2024-03-01 2024-02-29"),
        ("a {{- /* no */ -}} b", "ab"),
        ("{{ .System.Name }}", None),  # a string has no fields
        ("{{ .Unknown.Name }}", None),
        ("{{ .System 1 }}", None),
        ("{{ len 1 }}", None),
        ("{{ len }}", None),
        ("{{ index .System 3 }}", None),
        ("{{ lt 1 `a` }}", None),
        ("{{ eq 1 `a` }}", None),
        ('{{ template "absent" }}', None),
        ("{{ range .System }}{{ end }}", None),
    ],
)  # fmt: skip
def test_the_language_is_go_s(text, expected):
    if expected is None:
        with pytest.raises(InvalidTemplate):
            render(text)
    else:
        assert render(text, today=date(2024, 3, 1)) == expected


def test_a_message_has_no_other_fields():
    with pytest.raises(InvalidTemplate, match="can't evaluate field Unknown in type Message"):
        GoTemplate.parse("{{ range .Messages }}{{ .Unknown }}{{ end }}").render_chat([user("a")])


def test_arguments_are_a_map_in_key_order():
    text = "{{ range .Messages }}{{ range .ToolCalls }}{{ range $k, $v := .Function.Arguments }}{{ $k }}={{ $v }};"
    text += "{{ end }}{{ .Function.Arguments.a }}{{ json . }}{{ end }}{{ end }}"
    expected = '{"function":{"index":0,"name":"add","arguments":{"a":"\\u003c1\\u003e","b":2}}}'
    assert GoTemplate.parse(text).render_chat([CALL]) == f"a=<1>;b=2;<1>{expected}"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["integer", "null"]}, "number | null"),
        ({"type": "array"}, "any[]"),
        ({"type": "object"}, "Record<string, any>"),
        ({"type": "date"}, "any"),
        ({}, "any"),
        ({"anyOf": [{"type": "boolean"}, {"anyOf": [{"type": "number"}]}]}, "boolean | number"),
    ],
)
def test_properties_have_typescript_types(schema, expected):
    text = (
        "{{ range .Tools }}{{ range .Function.Parameters.Properties }}{{ toTypeScriptType . }}{{ end }}{{ end }}"
    )
    assert render(text, tools=[{"function": {"parameters": {"properties": {"x": schema}}}}]) == expected


@pytest.mark.parametrize(
    "tool", [{}, {"function": None}, {"type": 1, "function": {"name": [], "parameters": {"properties": []}}}]
)
def test_a_malformed_tool_still_prints(tool):
    empty = '{"name":"","description":"","parameters":{"type":"","properties":{}}}'
    assert render("{{ .Tools }}", tools=[tool]) == f'[{{"type":"","function":{empty}}}]'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_left_out(number):
    message = assistant("", tool_calls=(ToolCall("f", {"x": number}),))
    text = "{{ range .Messages }}{{ range .ToolCalls }}[{{ .Function.Arguments }}]{{ end }}{{ end }}"
    assert GoTemplate.parse(text).render_chat([message]) == "[]"


def test_values_nested_without_end_are_refused():
    schema: dict[str, object] = {}
    arguments: dict[str, object] = {}
    for _ in range(2000):
        schema, arguments = {"properties": {"x": schema}}, {"x": arguments}
    text = "{{ .Tools }}{{ range .Messages }}{{ .ToolCalls }}{{ end }}"
    with pytest.raises(InvalidRequest, match="nests too deeply"):
        GoTemplate.parse(text).render_chat([], [{"function": {"parameters": schema}}])
    with pytest.raises(InvalidTemplate, match="nests too deeply"):
        GoTemplate.parse(text).render_chat([assistant("", tool_calls=(ToolCall("f", arguments),))])


def test_vars_are_all_names_in_fields_and_variables():
    text = '{{ range $i, $m := .Messages }}{{ $m.ToolCalls }}{{ end }}{{ define "x" }}{{ (.Suffix) }}{{ end }}'
    assert GoTemplate.parse(text).vars == ("$m", "messages", "suffix", "toolcalls")
    assert GoTemplate.parse("{{ .Prompt }}").vars == ("prompt", "response")


@pytest.mark.parametrize(
    ("text", "thinking"),
    [
        (CHATML, ("<think>", "</think>")),
        (MISTRAL, None),
        (ALPACA, None),
        ("<think>{{ .Thinking }}</think>{{ .Messages }}", None),  # in no loop over the messages
    ],
)
def test_thinking_tags_are_inferred_from_the_text_around_it(text, thinking):
    assert thinking_tags(GoTemplate.parse(text).tree) == thinking


@pytest.mark.parametrize(
    "text",
    [
        "{{",
        "{{ end }}",
        "{{ if }}",
        "{{ unknownFunction }}",
        "{{ $undefined }}",
        "{{ if .A }}",
        "{{ " + "9" * 5000 + " }}",
        "{{ 0" + "1" * 100 + "x }}",
        "{{-0" + "1" * 100 + "x }}",
        "{{ 1+0" + "1" * 100 + "i0 }}",
        "{{- /* don't */}}{{ 0" + "1" * 100 + "x }}'",
        '{{ "}}" 0' + "_1" * 100 + "x }}",
        "\ud800",
        "{{ " + "(" * 5000,
        "{{ if .A }}" * 500 + "{{ end }}" * 500,
        "{{ if .A }}" + "{{ else if .A }}" * 300 + "{{ end }}",
        "{{ . }}" * 50_000,
        "x" * (MAX_TEMPLATE_CHARS + 1),
    ],
)
def test_a_template_that_does_not_parse_is_refused(text):
    with pytest.raises(InvalidTemplate):
        GoTemplate.parse(text)


DOUBLING = "".join(
    f'{{{{ define "t{i}" }}}}{{{{ template "t{i + 1}" }}}}{{{{ template "t{i + 1}" }}}}{{{{ end }}}}'
    for i in range(60)
)


@pytest.mark.parametrize(
    "text",
    [
        "{{ range 1000000000 }}{{ end }}",
        "{{ range 1000000000 }}" + "x" * 1000 + "{{ end }}",
        "{{ range 1000000000 }}{{ len $.System }}{{ end }}",
        DOUBLING + '{{ define "t60" }}{{ end }}{{ template "t0" }}',
        '{{ define "t" }}{{ template "t" }}{{ end }}{{ template "t" }}',
        '{{ $x := "aaaa" }}{{ range 100 }}{{ $x = print $x $x }}{{ end }}',
        '{{ $x := "\\\\" }}{{ range 100 }}{{ $x = js $x }}{{ end }}',
        '{{ printf "%1000000000d" 1 }}',
        '{{ printf "%.999999999f" 1.0 }}',
        '{{ printf "%*d" 1000000000 1 }}',
        '{{ printf "%-*d" -1000000000 1 }}',
    ],
)
def test_no_template_eats_the_machine(text, monkeypatch):
    monkeypatch.setattr("a3s_power.prompt.goexec.MAX_STEPS", 100_000)
    with pytest.raises(InvalidTemplate, match=r"more than|nests too deeply"):
        render(text, [system("s" * 100_000)])


_PIECES = st.sampled_from(
    """
    {{ }} {{- -}} if else end range with define template block break continue | := = , ( ) . $ $x "a" `b` 1 -1 0.5
    true nil .Messages .Role .Tools .Content .System .Response eq and or not len index slice print printf json html
    js call toTypeScriptType "%v" "%*d" 9999999
    """.split()  # noqa: SIM905
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=25).map(" ".join)))
def test_any_text_is_a_template_or_invalid(text):
    check_renders(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, min_size=1, max_size=6).map(" ".join))
def test_any_action_renders_or_is_invalid(action):
    check_renders("{{ " + action + " }}{{ .Messages }}")


def check_renders(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("a3s_power.prompt.goexec.MAX_STEPS", 5_000)
        try:
            template = GoTemplate.parse(text)
            thinking_tags(template.tree)
            assert isinstance(template.render_chat([system("s"), user("a"), CALL], [TOOL]), str)
        except InvalidTemplate:
            pass
