"""Both ways to a prompt and back: the engine's own template and parser, and Go templates with our readers."""

import json
from itertools import pairwise

import pytest

from tests.support.api import tiny_gguf, until
from tests.support.templates import with_chat_template

FORCED_THINKING = """{% if tools %}<|im_start|>system
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
Call a function by a JSON object within <tool_call></tool_call>:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.role == 'assistant' and message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}{% if message.tool_calls %}{% for tool_call in message.tool_calls %}
<tool_call>
{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% else %}<think>
{% endif %}{% endif %}"""
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 3, "maximum": 5}},
    "required": ["age"],
}
GREEDY = {"temperature": 0, "num_predict": 24}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get-weather",
        "description": "",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


# ---- the engine's way ----


@pytest.fixture(scope="module")
def thinker(real, smollm2_gguf, tmp_path_factory):
    """A model that begins every reply with a thought, whether it wants to or not."""
    path = with_chat_template(smollm2_gguf, tmp_path_factory.mktemp("thinker") / "k.gguf", FORCED_THINKING)
    real.create("thinker", path)
    yield real
    real.sdk.generate("thinker", keep_alive=0)
    until(lambda: "thinker:latest" not in real.loaded())
    real.sdk.delete("thinker")


def chat(api, **fields):
    body = {
        "model": "thinker",
        "messages": [{"role": "user", "content": "Hi"}],
        "options": GREEDY,
        "stream": False,
    }
    return api.post("/api/chat", body | fields).json()


def generate(api, **fields):
    body = {"model": "thinker", "prompt": "Hi", "options": GREEDY, "stream": False}
    return api.post("/api/generate", body | fields).json()


def test_thoughts_are_told_apart_by_both_endpoints_alike(thinker):
    assert "thinking" in thinker.sdk.show("thinker").capabilities
    whole, single = chat(thinker), generate(thinker)
    assert whole["message"]["thinking"] == single["thinking"] != ""
    assert whole["message"]["content"] == single["response"] == ""
    assert whole["prompt_eval_count"] == single["prompt_eval_count"]


def test_who_wants_no_thoughts_gets_none(thinker):
    whole, single = chat(thinker, think=False), generate(thinker, think=False)
    assert whole["message"]["content"] == single["response"] != ""
    assert "thinking" not in whole["message"] | single


def test_a_format_binds_the_answer_at_once_where_there_are_no_thoughts(thinker):
    for text in (
        chat(thinker, think=False, format=SCHEMA)["message"]["content"],
        generate(thinker, think=False, format=SCHEMA)["response"],
    ):
        assert json.loads(text)["age"] in {3, 4, 5}


def test_a_format_leaves_thoughts_free(thinker):
    free, bound = chat(thinker)["message"], chat(thinker, format=SCHEMA)["message"]
    assert bound == free


def test_earlier_thoughts_are_shown_to_templates_that_want_them(thinker):
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?", "thinking": "Someone is there."},
        {"role": "user", "content": "Ho"},
    ]
    rendered = chat(thinker, messages=history, _debug_render_only=True)["_debug_info"]["rendered_template"]
    assert "<think>\nSomeone is there.\n</think>\n\nYes?" in rendered


@pytest.mark.parametrize(
    "output_format, said",
    [
        ({"not": {}}, 'invalid format: "not" at $ cannot be expressed'),
        ("xml", 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
        ({"type": "nonsense"}, "invalid format: "),
    ],
)
def test_a_format_that_cannot_be_kept_is_refused(thinker, output_format, said):
    for reply in (chat(thinker, format=output_format), generate(thinker, format=output_format)):
        assert list(reply) == ["error"]
        assert reply["error"].startswith(said)


def test_a_format_binds_the_answer_beside_tools_too(thinker):
    reply = chat(thinker, think=False, format=SCHEMA, tools=[WEATHER])["message"]
    assert json.loads(reply["content"])["age"] in {3, 4, 5}


@pytest.mark.parametrize(
    "tool, said",
    [
        ({}, "tools[0].function must be an object"),
        ({"type": "function", "function": "f"}, "tools[0].function must be an object"),
        ({"type": "function", "function": {}}, "tools[0].function.name must be a string that is not empty"),
        (
            {"type": "function", "function": {"name": 5}},
            "tools[0].function.name must be a string that is not empty",
        ),
        ({"function": {"name": "f", "description": 5}}, "tools[0].function.description must be a string"),
        ({"function": {"name": "f", "parameters": []}}, "tools[0].function.parameters must be an object"),
        ({"function": {"name": "f", "parameters": {"type": "odd"}}}, "unrecognized type odd"),
    ],
)
def test_a_tool_that_is_none_is_the_clients_mistake(thinker, tool, said):
    response = thinker.post(
        "/api/chat", {"model": "thinker", "messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}
    )
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_a_tool_needs_no_more_than_a_name(thinker):
    assert chat(thinker, tools=[{"function": {"name": "f", "parameters": None}}])["done"]


def test_each_token_has_its_logprob_also_where_the_engine_would_hold_it_back(thinker):
    reply = chat(thinker, think=False, logprobs=True, options=GREEDY | {"num_predict": 9})
    assert len(reply["logprobs"]) == reply["eval_count"] == 9


def test_models_are_shown_of_tools_what_ollama_shows_them(thinker):
    parameters = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "where": {"$ref": "#/$defs/Place"},
            "else": {"$ref": "https://example.com/x.json", "description": "odd"},
        },
        "$defs": {"Place": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    tool = {
        "type": "function",
        "function": {"name": "f", "description": "d", "parameters": parameters, "strict": True},
    }
    rendered = chat(thinker, tools=[tool], _debug_render_only=True)["_debug_info"]["rendered_template"]
    shown = json.loads(rendered.partition("<tools>")[2].partition("</tools>")[0])
    del parameters["additionalProperties"], parameters["properties"]["unit"]["default"]
    del parameters["properties"]["else"]["$ref"]
    assert shown == {"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}}


# ---- what is too long ----


def test_a_conversation_that_is_too_long_loses_its_oldest_turns_and_says_so(real):
    turns = [{"role": role, "content": f"Turn {n}. " * 20} for n in range(12) for role in ("user", "assistant")]
    body = {"model": "smollm2", "messages": [*turns, {"role": "user", "content": "Hi"}], "options": GREEDY}
    response = real.post("/api/chat", body)
    *lines, last = map(json.loads, response.text.splitlines())
    assert response.headers["x-a3s-power-truncated"] == "true"
    assert last["truncated"] is True
    assert last["prompt_eval_count"] < 512 - GREEDY["num_predict"]
    assert not any("truncated" in line for line in lines)

    preview = real.post("/api/chat", body | {"_debug_render_only": True}).json()["_debug_info"][
        "rendered_template"
    ]
    assert "Turn 0." not in preview
    assert "Turn 11." in preview

    refused = real.post("/api/chat", body | {"truncate": False})
    assert refused.status_code == 400
    assert "context" in refused.json()["error"]


def test_what_fits_is_left_alone(real):
    response = real.post(
        "/api/chat", {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "options": GREEDY}
    )
    assert "x-a3s-power-truncated" not in response.headers
    assert "truncated" not in response.text


def test_a_smaller_wish_is_kept_by_shortening_too(real):
    turns = [{"role": role, "content": f"Turn {n}. " * 5} for n in range(8) for role in ("user", "assistant")]
    body = {"model": "smollm2", "messages": [*turns, {"role": "user", "content": "Hi"}], "stream": False}
    reply = real.post("/api/chat", body | {"options": GREEDY | {"num_ctx": 128}}).json()
    assert reply["truncated"] is True
    assert reply["prompt_eval_count"] + reply["eval_count"] <= 128


@pytest.mark.parametrize("fields", [{"raw": True}, {"context": [1, 2, 3]}, {"truncate": False}, {}])
def test_one_prompt_is_never_cut(real, fields):
    response = real.post("/api/generate", {"model": "smollm2", "prompt": "word " * 600, **fields})
    assert response.status_code == 400
    assert "512 available" in response.json()["error"]


# ---- going round in circles ----


def test_a_model_that_repeats_itself_is_stopped(scripted):
    api = scripted()
    body = {"model": "m", "prompt": "say:" + "|".join(["no"] * 500)}
    for lines in (api.lines("/api/generate", body), api.lines("/api/chat", chat_of(body["prompt"]))):
        *_, last = lines
        assert (len(lines), last["done"], last["done_reason"]) == (33, True, "stop")
        assert last["eval_count"] == 32


def chat_of(content, **fields):
    return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}


# ---- prompts of one text ----


@pytest.fixture
def inserter(scripted, tmp_path):
    api = scripted()
    template = "{{ if .Suffix }}{{ .Prompt }}~{{ .Suffix }}{{ else }}{{ .Prompt }}{{ end }}"
    api.create("fim", tiny_gguf(tmp_path / "fim.gguf", chat_template=None), template=template)
    api.create("bare", tiny_gguf(tmp_path / "bare.gguf", chat_template=None))
    api.create("claims", tiny_gguf(tmp_path / "claims.gguf"), info={"capabilities": ["insert"]})
    return api


@pytest.mark.parametrize(
    "fields, rendered",
    [
        ({"model": "fim", "prompt": "a", "suffix": "b"}, "a~b"),
        ({"model": "fim", "prompt": "a", "suffix": "b", "template": "<{{ .Prompt }}|{{ .Suffix }}>"}, "<a|b>"),
        ({"model": "fim", "prompt": "a", "suffix": "b", "context": [1, 2]}, "t1 t2a~b"),
        ({"model": "bare", "prompt": "a", "context": [1, 2]}, "t1 t2a"),
        ({"model": "bare", "prompt": "a", "system": "x"}, "a"),
    ],
)
def test_a_prompt_is_put_together(inserter, fields, rendered):
    reply = inserter.post("/api/generate", fields | {"_debug_render_only": True}).json()
    assert reply["_debug_info"]["rendered_template"] == rendered


def test_what_cannot_insert_says_so(inserter):
    for model in ("bare", "claims"):
        response = inserter.post("/api/generate", {"model": model, "prompt": "a", "suffix": "b"})
        assert response.status_code == 400
        assert response.json()["error"] == f"registry.ollama.ai/library/{model}:latest does not support insert"


def test_a_template_that_fails_is_its_owners_fault(inserter, tmp_path):
    failing = "{{ range .Messages }}{{ .Foo }}{{ end }}"
    inserter.create("failing", tiny_gguf(tmp_path / "failing.gguf", chat_template=None), template=failing)
    assert inserter.post("/api/chat", chat_of("a", model="failing")).status_code == 500
    assert inserter.post("/api/generate", {"model": "bare", "prompt": "a", "template": failing}).status_code == 400


@pytest.mark.parametrize("fields", [{"raw": True}, {}])
def test_thoughts_are_told_apart_where_a_template_only_cuts_old_ones_off(scripted, tmp_path, fields):
    api = scripted()
    api.create("r1", tiny_gguf(tmp_path / "r1.gguf", chat_template="{{ content.split('</think>')[-1] }}"))
    body = {"model": "r1", "prompt": "say:<thi|nk>|hm|</think>|yes", "stream": False}
    reply = api.post("/api/generate", body | fields).json()
    assert (reply["thinking"], reply["response"]) == ("hm", "yes")


# ---- harmony ----

HARMONY_TEMPLATE = (
    """{{ range .Messages }}{{ .Content }}{{ end }}{{ if .Never }}{{ .Tools }}<|start|><|end|>{{ end }}"""
)


@pytest.fixture
def gpt_oss(scripted, tmp_path):
    """A model that speaks harmony; what it says is told by `said`."""
    api = scripted()
    path = tiny_gguf(tmp_path / "gpt-oss.gguf", architecture="gpt-oss", chat_template=None)
    api.create("gpt-oss", path, template=HARMONY_TEMPLATE)
    return api


def said(text, cuts):
    places = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    events = [{"content": text[start:end], "stop": False} for start, end in pairwise(places)]
    return "raw:" + json.dumps([*events, {"content": "", "stop": True, "stop_type": "eos"}])


THOUGHT = "<|channel|>analysis<|message|>I look it up.<|end|><|start|>assistant"
ANSWER = "<|channel|>final<|message|>It rains."
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city":"Oslo"}'


@pytest.mark.parametrize("cuts", [(), range(1, 200), (5, 33, 60), (14, 30, 48)])
def test_harmony_is_read_in_any_pieces(gpt_oss, cuts):
    reply = gpt_oss.post("/api/chat", chat_of(said(THOUGHT + ANSWER, cuts), model="gpt-oss", stream=False)).json()
    assert reply["message"] == {"role": "assistant", "content": "It rains.", "thinking": "I look it up."}
    single = gpt_oss.post(
        "/api/generate", {"model": "gpt-oss", "prompt": said(THOUGHT + ANSWER, cuts), "stream": False}
    )
    assert (single.json()["thinking"], single.json()["response"]) == ("I look it up.", "It rains.")


@pytest.mark.parametrize("cuts", [(), range(1, 200), (70, 120)])
def test_harmony_calls_come_back_under_the_clients_names(gpt_oss, cuts):
    body = chat_of(said(THOUGHT + CALL, cuts), model="gpt-oss", tools=[WEATHER], stream=False)
    message = gpt_oss.post("/api/chat", body).json()["message"]
    assert message["tool_calls"][0]["function"] == {
        "index": 0,
        "name": "get-weather",
        "arguments": {"city": "Oslo"},
    }
    assert message["content"] == ""


@pytest.mark.parametrize("cut", [len(THOUGHT) + 80, len(THOUGHT + CALL) - 3])
def test_a_harmony_call_that_is_cut_off_is_no_answer(gpt_oss, cut):
    body = chat_of(said((THOUGHT + CALL)[:cut], ()), model="gpt-oss", tools=[WEATHER])
    *lines, last = gpt_oss.lines("/api/chat", body)
    assert "".join(line["message"]["content"] for line in lines) == ""
    assert (last["done"], last["done_reason"]) == (True, "stop")


def test_what_generate_calls_has_no_ids(gpt_oss):
    reply = gpt_oss.post("/api/generate", {"model": "gpt-oss", "prompt": said(CALL, ()), "stream": False}).json()
    assert reply["tool_calls"] == [
        {"function": {"index": 0, "name": "get_weather", "arguments": {"city": "Oslo"}}}
    ]


# ---- renderers that we have not ----


def test_a_renderer_is_named_where_it_is_missing(scripted, tmp_path):
    api = scripted()
    path = tiny_gguf(tmp_path / "bare.gguf", chat_template=None)
    api.create("bare", path, renderer="qwen3-vl-instruct", parser="qwen3-vl-instruct")
    for response in (
        api.post("/api/chat", chat_of("say:hi", model="bare")),
        api.post("/api/generate", {"model": "bare", "prompt": "say:hi"}),
    ):
        assert response.status_code == 400
        assert 'renderer "qwen3-vl-instruct"' in response.json()["error"]


def test_a_chat_template_stands_in_for_a_renderer(scripted, tmp_path):
    api = scripted()
    api.create(
        "rendered", tiny_gguf(tmp_path / "rendered.gguf"), renderer="qwen3-vl-instruct", template="{{ .Prompt }}"
    )
    assert api.lines("/api/chat", chat_of("say:hi", model="rendered"))[0]["message"]["content"] == "hi"
