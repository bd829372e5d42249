"""/v1/chat/completions, asked by OpenAI's own client, which is told to take nothing that is not as described."""

import json
from dataclasses import replace

import openai
import pytest
import zstandard
from pydantic import BaseModel

from a3s_power.api.openai.chatrequest import generation_request
from a3s_power.api.openai.errors import InvalidParameter
from a3s_power.api.openai.errors import openai as dialect
from a3s_power.api.openai.messages import conversation
from a3s_power.api.openai.toolchoice import chosen
from a3s_power.errors import InvalidRequest, ServerBusy
from a3s_power.generation import ChatInput, GenerationRequest, ToolChoice
from a3s_power.messages import Message, ToolCall
from a3s_power.names import ModelName
from a3s_power.service.choices import variants
from a3s_power.wire import openai as wire
from a3s_power.wire.gojson import decode
from tests.api.test_faults import open_streams, send_request
from tests.conformance.conftest import create_variants
from tests.conftest import ServerMaker
from tests.support.api import CHAT_TEMPLATE, tiny_gguf, until

PATH = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]
SHORT = {"model": "smollm2", "messages": HI, "temperature": 0, "max_tokens": 8}
PNG = b"\x89PNG"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


def client_of(api, **more):
    """A client that checks each reply against the types it has for it."""
    return openai.OpenAI(
        base_url=f"{api.server.url}/v1", api_key="any", max_retries=0, _strict_response_validation=True, **more
    )


@pytest.fixture
def client(real):
    with client_of(real) as client:
        yield client


@pytest.fixture(scope="module")
def puppet(tmp_path_factory):
    """A server whose engine does as the last message says; `native` is a model whose tools the engine renders."""
    folder = tmp_path_factory.mktemp("puppet")
    with ServerMaker(folder) as make:
        api = make()
        create_variants(api)
        api.create("native", tiny_gguf(folder / "native.gguf", chat_template=CHAT_TEMPLATE + "{# tools #}"))
        yield api


@pytest.fixture
def scripted_client(puppet):
    with client_of(puppet) as client:
        yield client


def told(content, **more):
    """What to ask a scripted model."""
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


def calling(arguments, *, cut):
    """What makes the engine send a call whose arguments come in pieces."""
    pieces = [arguments[start : start + cut] for start in range(0, len(arguments), cut)]
    first = {"index": 0, "id": "x", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    deltas = [{"tool_calls": [call]} for call in (first, *more)]
    choices = [{"delta": delta, "finish_reason": None} for delta in deltas]
    ending = [
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {}, "timings": {}},
    ]
    return "raw:" + json.dumps([*({"choices": [choice]} for choice in choices), *ending])


# ---- chats ----


def test_the_official_client_chats(client, real):
    reply = client.chat.completions.create(**SHORT)
    (choice,) = reply.choices
    native = real.sdk.chat("smollm2", HI, options={"temperature": 0, "top_p": 1, "num_predict": 8})
    assert (choice.message.role, choice.message.content) == ("assistant", native.message.content)
    assert choice.finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (31, 8, 39)
    assert 0 <= reply.usage.prompt_tokens_details.cached_tokens < 31


def test_the_official_client_streams_what_it_would_get_at_once(client):
    whole = client.chat.completions.create(**SHORT)
    *chunks, last = client.chat.completions.create(**SHORT, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    assert not any(chunk.usage for chunk in chunks)
    assert (last.choices, last.usage.total_tokens) == ([], 39)


def test_the_official_helper_puts_a_stream_together(client):
    with client.chat.completions.stream(**SHORT | {"max_tokens": 40}) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


@pytest.mark.anyio
async def test_the_official_async_client_streams(real):
    async with openai.AsyncOpenAI(base_url=f"{real.server.url}/v1", api_key="any") as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**SHORT, stream=True)]
    assert chunks[-1].choices[0].finish_reason == "length"


class Person(BaseModel):
    name: str
    is_adult: bool


def test_the_official_client_gets_values_of_its_types(client):
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Ada is 36."}], "temperature": 0}
    parsed = client.chat.completions.parse(**body, response_format=Person).choices[0].message.parsed
    assert isinstance(parsed, Person)
    with client.chat.completions.stream(**body, response_format=Person) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed


def test_each_token_comes_with_its_alternatives(client):
    reply = client.chat.completions.create(**SHORT, logprobs=True, top_logprobs=2)
    rows = reply.choices[0].logprobs.content
    assert len(rows) == reply.usage.completion_tokens
    for row in rows:
        assert row.top_logprobs[0].logprob >= row.top_logprobs[1].logprob
        assert row.token in {other.token for other in row.top_logprobs}
    chunks = client.chat.completions.create(**SHORT, stream=True, logprobs=True, top_logprobs=0)
    streamed = [row for chunk in chunks if (told := chunk.choices[0].logprobs) for row in told.content]
    assert [row.token for row in streamed] == [row.token for row in rows]


def test_a_token_that_is_banned_is_not_said(client, real):
    once = real.sdk.generate("smollm2", "Hi", options={"temperature": 0, "num_predict": 1})
    banned = once.context[-1]
    usual, other = (
        client.chat.completions.create(**SHORT | {"max_tokens": 1}, logit_bias=bias).choices[0].message.content
        for bias in ({}, {str(banned): -100})
    )
    assert usual == once.response != other


def test_ollama_s_options_work_here_too(client):
    long = SHORT | {"messages": [{"role": "user", "content": "word " * 100}]}
    assert client.chat.completions.create(**long).choices
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**long, extra_body={"options": {"num_ctx": 64}})
    assert refused.value.code == "context_length_exceeded"
    assert "maximum context length is 64 tokens" in refused.value.message


def test_a_body_may_be_compressed(real):
    body = zstandard.compress(json.dumps(SHORT).encode())
    assert real.post(PATH, body, headers={"Content-Encoding": "zstd"}).json()["object"] == "chat.completion"


def test_what_would_be_asked_can_be_seen(real):
    reply = real.post(PATH, {**SHORT, "stream": True, "_debug_render_only": True}).json()
    assert "Hi" in reply["_debug_info"]["rendered_template"]
    assert reply["choices"][0]["finish_reason"] is None


# ---- several choices ----


@pytest.mark.parametrize("seed", [None, 7])
def test_a_prompt_counts_once_however_many_answers_it_gets(client, seed):
    reply = client.chat.completions.create(**SHORT | {"temperature": 1, "seed": seed}, n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in reply.choices)
    assert reply.usage.prompt_tokens == 31
    assert 3 <= reply.usage.completion_tokens <= 24


def test_choices_are_streamed_as_they_come(scripted_client):
    body = told("say:a|b|c", n=3, stream_options={"include_usage": True})
    with scripted_client.chat.completions.stream(**body) as stream:
        final = stream.get_final_completion() if list(stream) else None
    assert [(choice.index, choice.message.content) for choice in final.choices] == [(n, "abc") for n in range(3)]
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (7, 9)


def test_each_choice_has_a_seed_of_its_own():
    request = GenerationRequest(ModelName.parse("m"), "m", ChatInput(()), options={"seed": 7, "top_k": 1})
    assert [variant.options for variant in variants(request, 3)] == [{"seed": n, "top_k": 1} for n in (7, 8, 9)]
    for options in ({}, {"seed": -1}):  # a fresh one each time
        unseeded = replace(request, options=options)
        assert variants(unseeded, 2) == [unseeded, unseeded]


@pytest.mark.parametrize("prompt", ["break:1", "die:1"])
def test_one_choice_that_fails_ends_all(scripted, prompt):
    with client_of(scripted()) as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**told(prompt, n=3))
        with pytest.raises(openai.APIError) as failed:
            list(client.chat.completions.create(**told(prompt, n=3), stream=True))
    assert not isinstance(failed.value, openai.APIStatusError)
    assert failed.value.type == "api_error"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_client_that_leaves_stops_all_choices(scripted, stream, count):
    api = scripted()
    connection = send_request(api, PATH, told("forever", n=count, stream=stream))
    if stream:
        until(lambda: b"tick" in connection.recv(1 << 16))
    until(lambda: api.loaded() and open_streams(api) == count)
    connection.close()
    until(lambda: open_streams(api) == 0)
    assert api.post(PATH, told("say:still here")).json()["choices"][0]["message"]["content"] == "still here"


# ---- tools ----


def test_a_call_is_streamed_as_it_is_made(scripted_client):
    arguments = '{"city":"Oslo, Norway"}'
    body = told(calling(arguments, cut=4), model="native", tools=[WEATHER])
    deltas = [chunk.choices[0].delta for chunk in scripted_client.chat.completions.create(**body, stream=True)]
    first, *others = [piece for delta in deltas for piece in delta.tool_calls or ()]
    assert (first.index, first.type, first.function.name) == (0, "function", "get_weather")
    assert len(others) > 1
    assert {(piece.index, piece.id, piece.type, piece.function.name) for piece in others} == {
        (0, None, None, None)
    }
    assert json.loads("".join(piece.function.arguments for piece in (first, *others))) == {"city": "Oslo, Norway"}


@pytest.mark.parametrize("cut", [1, 4, 100])
def test_the_official_helper_puts_calls_together(scripted_client, cut):
    body = told(calling('{"city": "Oslo"}', cut=cut), model="native", tools=[WEATHER])
    with scripted_client.chat.completions.stream(**body) as stream:
        final = stream.get_final_completion().choices[0]
    whole = scripted_client.chat.completions.create(**body).choices[0]
    for choice in (final, whole):
        (call,) = choice.message.tool_calls
        assert (choice.finish_reason, choice.message.content, call.type) == ("tool_calls", "", "function")
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    assert final.message.tool_calls[0].function.parsed_arguments == {"city": "Oslo"}


@pytest.fixture
def caller(real):
    """The name of a real model whose template knows tools, and whose owner never told it to call any."""
    body = {"model": "caller", "from": "smollm2", "stream": False}
    template = (
        "{{ range .Tools }}{{ . }}{{ end }}{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant:"
    )
    assert real.post("/api/create", {**body, "template": template}).status_code == 200
    yield "caller"
    real.sdk.delete("caller")


@pytest.mark.parametrize(
    "choice, names",
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "get_weather"}}],
                },
            },
            {"get_weather"},
        ),
    ],
)
def test_a_call_can_be_demanded(client, caller, choice, names):
    city = {"type": "string", "enum": ["Oslo", "Rome"]}  # a small model might never end a string of its own
    weather = {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": city}, "required": ["city"]},
    }
    tools = [{"type": "function", "function": weather}, TIME]
    body = SHORT | {"model": caller, "max_tokens": 200, "tools": tools, "tool_choice": choice}
    reply = client.chat.completions.create(**body, parallel_tool_calls=False).choices[0]
    (call,) = reply.message.tool_calls
    assert reply.finish_reason == "tool_calls"
    assert call.function.name in names
    if call.function.name == "get_weather":
        assert json.loads(call.function.arguments)["city"] in city["enum"]


def test_no_call_is_made_against_the_client_s_will(scripted_client):
    body = told(
        'say:<tool_call>|{"name": "get_weather", "arguments": {}}|</tool_call>', model="t", tools=[WEATHER]
    )
    reply = scripted_client.chat.completions.create(**body, tool_choice="none").choices[0]
    assert reply.message.tool_calls is None
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"tool_choice": "required"}, "tool_choice requires a call, but there are no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [WEATHER]},
         'tool_choice names "f", which is not among the tools'),
    ],
)  # fmt: skip
def test_a_call_of_no_tool_cannot_be_demanded(scripted_client, fields, words):
    with pytest.raises(openai.BadRequestError) as refused:
        scripted_client.chat.completions.create(**told("say:hi", model="t"), **fields)
    assert (refused.value.body["message"], refused.value.param) == (words, "tool_choice")


ALLOWED = {"type": "function", "function": {"name": "get_time"}}


@pytest.mark.parametrize(
    "value, choice, names",
    [
        (None, ToolChoice(), ["get_weather", "get_time"]),
        ("auto", ToolChoice(), ["get_weather", "get_time"]),
        ("none", ToolChoice(is_allowed=False), ["get_weather", "get_time"]),
        ("required", ToolChoice(is_required=True), ["get_weather", "get_time"]),
        (ALLOWED, ToolChoice(is_required=True, name="get_time"), ["get_weather", "get_time"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [ALLOWED]}},
            ToolChoice(),
            ["get_time"],
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [ALLOWED]}},
            ToolChoice(is_required=True),
            ["get_time"],
        ),
    ],
)
def test_which_tools_may_be_called(value, choice, names):
    read, tools = chosen(value, [WEATHER, TIME], is_parallel=True)
    assert read == choice
    assert [tool["function"]["name"] for tool in tools] == names
    assert chosen(value, [WEATHER, TIME], is_parallel=False)[0].is_parallel is (value == "none")


# ---- what is asked ----


def asked(**fields):
    """A body as it is read."""
    return generation_request(
        decode(json.dumps({"model": "m", "messages": HI, **fields}).encode(), wire.ChatCompletionRequest)
    )


@pytest.mark.parametrize(
    "fields, options",
    [
        ({}, {}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0.0, "top_p": 0.5}),
        ({"max_tokens": 5}, {"num_predict": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 3}, {"num_predict": 3}),
        ({"seed": 7, "frequency_penalty": 0.5, "presence_penalty": -1}, {"seed": 7, "frequency_penalty": 0.5, "presence_penalty": -1.0}),
        ({"stop": "X"}, {"stop": ["X"]}),
        ({"stop": ["X", 5, "Y"]}, {"stop": ["X", "Y"]}),
        ({"stop": []}, {}),
        ({"options": {"num_ctx": 99, "temperature": 0.2}}, {"num_ctx": 99, "temperature": 0.2}),
        ({"options": {"temperature": 0.2, "num_predict": 9}, "temperature": 0.5, "max_tokens": 5}, {"temperature": 0.5, "num_predict": 5}),
        ({"options": {"temperature": None}}, {}),
    ],
)  # fmt: skip
def test_fields_win_and_options_fill_what_they_leave_out(fields, options):
    assert asked(**fields).options == {"temperature": 1.0, "top_p": 1.0} | options


@pytest.mark.parametrize(
    "fields, think",
    [
        ({}, None),
        ({"reasoning_effort": ""}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "medium"}, "medium"),
        ({"reasoning_effort": "xhigh"}, "max"),
        ({"reasoning": {"effort": "high"}, "reasoning_effort": "none"}, "high"),
        ({"reasoning": {}, "reasoning_effort": "none"}, None),
    ],
)
def test_how_much_is_thought(fields, think):
    assert asked(**fields).think == think


SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}


@pytest.mark.parametrize(
    "wanted, bound",
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": " JSON_Schema\n", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}, SCHEMA),
        ({"type": "grammar"}, None),
    ],
)
def test_what_the_answer_is_bound_to(wanted, bound):
    assert asked(response_format=wanted).output_format == bound


def test_other_fields_arrive():
    request = asked(logprobs=True, top_logprobs=3, logit_bias={"17": -100, "9": 2.5}, keep_alive="5m")
    assert (request.top_logprobs, request.logit_bias, request.keep_alive_s) == (3, {17: -100, 9: 2.5}, 300)
    assert request.may_truncate is False


@pytest.mark.parametrize(
    "fields",
    [
        {
            "user": "u",
            "metadata": {"a": "b"},
            "store": True,
            "service_tier": "flex",
            "prediction": {"type": "content"},
        },
        {"functions": [{"name": "f"}], "function_call": "auto", "best_of": 3, "echo": True},
        {"modalities": ["text"], "verbosity": "medium", "audio": None, "web_search_options": None},
        {"think": True, "format": "json", "truncate": True},
    ],
)
def test_what_changes_no_answer_is_ignored(fields):
    assert asked(**fields) == asked()


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"verbosity": "low"}, "verbosity"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 100.5}}, "logit_bias"),
        ({"stop": 5}, "stop"),
        ({"reasoning_effort": "x"}, "reasoning_effort"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "custom"}, "tools": [WEATHER]}, "tool_choice"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(fields, param):
    with pytest.raises(InvalidParameter) as refused:
        asked(**fields)
    assert refused.value.param == param
    assert param in str(refused.value) or param == "reasoning_effort"  # in Ollama's words, which have another


# ---- messages ----

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}
CALLED = Message("assistant", tool_calls=(ToolCall("f", {"b": 1, "a": 2}, "c1"),))
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}


def text(words):
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    "given, read",
    [
        ([{"role": "USER", "content": "Hi", "name": "Ada"}], [Message("user", "Hi")]),
        ([{"role": "developer", "content": "Be brief."}], [Message("developer", "Be brief.")]),
        ([{"role": "assistant", "content": "4", "reasoning": "2 + 2"}], [Message("assistant", "4", "2 + 2")]),
        ([{"role": "assistant", "content": None, "tool_calls": []}], [Message("assistant")]),
        ([{"role": "user", "content": []}], [Message("user")]),
        (
            [{"role": "user", "content": [text("Look."), PICTURE, text("What is it?")]}],
            [Message("user", "Look.\nWhat is it?", images=(PNG,))],
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "data:;base64,iVBORw=="}]}],
            [Message("user", images=(PNG,))],
        ),
        (
            [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": "x"}],
            [CALLED, Message("tool", "x", tool_name="f", tool_call_id="c1")],
        ),
        (
            [
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": [text("x")]},
            ],
            [CALLED, Message("tool", "x", tool_name="f", tool_call_id="c1")],
        ),
        (
            [{"role": "tool", "tool_call_id": "c1", "name": "g", "content": "x"}],
            [Message("tool", "x", tool_name="g", tool_call_id="c1")],
        ),
    ],
)
def test_messages_are_read_one_for_one(given, read):
    messages = decode(json.dumps({"messages": given}).encode(), wire.ChatCompletionRequest).messages
    assert conversation(messages) == tuple(read)


@pytest.mark.parametrize(
    "part, said",
    [
        ({"type": "input_audio"}, "invalid input_audio format"),
        ({"type": "input_audio", "input_audio": {}}, "invalid input_audio format: missing data"),
        (
            {"type": "input_audio", "input_audio": {"data": "UklG!"}},
            "invalid input_audio base64 data: illegal base64 data at input byte 4",
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "UklG"}},
            "'input_audio' is not supported by this server",
        ),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAA"}}, "invalid image input"),
        ({"type": "image_url"}, "invalid message format"),
    ],
)
def test_parts_that_are_refused(part, said):
    with pytest.raises(InvalidRequest) as refused:
        conversation([wire.ChatMessage("user", [part])])
    assert str(refused.value) == said


# ---- errors ----


def test_errors_are_told_apart_by_the_official_client(scripted_client):
    create = scripted_client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as unknown:
        create(**told("Hi") | {"model": "nope"})
    assert unknown.value.body == {
        "message": "model 'nope' not found",
        "type": "not_found_error",
        "param": None,
        "code": None,
    }
    with pytest.raises(openai.BadRequestError) as refused:
        create(**told("Hi"), modalities=["audio"])
    assert (refused.value.param, refused.value.code) == ("modalities", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as many:
        create(**told("Hi"), n=17)
    assert (many.value.param, many.value.message.split(" - ")[1].count("n must be between 1 and 16")) == ("n", 1)


@pytest.mark.parametrize("stream", [True, False])
def test_a_conversation_that_is_too_long_is_told_in_the_words_that_agents_look_for(scripted_client, stream):
    with pytest.raises(openai.BadRequestError) as refused:
        scripted_client.chat.completions.create(**told("long:99"), stream=stream)
    assert refused.value.body == {
        "message": "This model's maximum context length is 64 tokens. However, your messages resulted in 99 tokens. "
        "Please reduce the length of the messages.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }


def test_a_stream_that_breaks_says_so_and_ends(scripted_client, puppet):
    pieces = []
    with pytest.raises(openai.APIError, match="broke as told"):
        pieces.extend(scripted_client.chat.completions.create(**told("break:2"), stream=True))
    assert "".join(chunk.choices[0].delta.content for chunk in pieces) == " tok0 tok1"
    last = puppet.post(PATH, told("break:2", stream=True)).text.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "broke as told"


def test_a_server_that_is_busy_says_when_to_come_back():
    failure = dialect(ServerBusy(7))
    assert (failure.status, failure.headers) == (503, {"Retry-After": "7"})
    assert json.loads(failure.body)["error"]["type"] == "api_error"
