"""openai, the official SDK."""

import json

import checks
import openai
from checks import AGENT, ANSWER, CALL, CALLER, CHAT_MODEL, EMBEDDING_MODEL, SAID, SAY, WEATHER, Mood, caught
from openai import OpenAI

HI = [{"role": "user", "content": "Hi"}]
SHORT = {"model": CHAT_MODEL, "messages": HI, "temperature": 0, "max_completion_tokens": 8}
TALK = {"model": AGENT, "messages": [{"role": "user", "content": SAY}]}
SAY_A_CALL = [{"role": "user", "content": CALL}]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "The weather", "parameters": WEATHER, "strict": True},
    }
]


def client(url):
    return OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def chat(servers):
    reply = client(servers.real).chat.completions.create(**SHORT)
    (choice,) = reply.choices
    assert choice.message.content
    assert choice.finish_reason in {"stop", "length"}
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens <= 8


def stream(servers):
    *parts, last = client(servers.scripted).chat.completions.create(
        **TALK, stream=True, stream_options={"include_usage": True}
    )
    assert len(parts) > 2
    assert "".join(part.choices[0].delta.content or "" for part in parts) == SAID
    assert parts[-1].choices[0].finish_reason == "stop"
    assert (last.choices, last.usage.completion_tokens) == ([], 3)


def stream_helper(servers):
    with client(servers.scripted).chat.completions.stream(**TALK) as events:
        deltas = [event.delta for event in events if event.type == "content.delta"]
        reply = events.get_final_completion()
    assert len(deltas) > 1
    assert "".join(deltas) == reply.choices[0].message.content == SAID


def tool(servers):
    completions = client(servers.scripted).chat.completions
    (choice,) = completions.create(model=AGENT, messages=SAY_A_CALL, tools=TOOLS).choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    check_call(call)
    result = {"role": "tool", "tool_call_id": call.id, "content": checks.get_weather("Oslo")}
    reply = completions.create(model=AGENT, messages=[*SAY_A_CALL, choice.message, result], tools=TOOLS)
    assert reply.choices[0].message.content == ANSWER + "get_weather"


def tool_in_a_stream(servers):
    with client(servers.scripted).chat.completions.stream(model=AGENT, messages=SAY_A_CALL, tools=TOOLS) as events:
        kinds = [event.type for event in events]
        (choice,) = events.get_final_completion().choices
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= set(kinds)
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    check_call(call)
    assert call.function.parsed_arguments == {"city": "Oslo"}


def check_call(call):
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Oslo"}


def tool_that_must_be_called(servers):
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        reply = client(servers.real).chat.completions.create(
            model=CALLER, messages=HI, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, temperature=0
        )
        (call,) = reply.choices[0].message.tool_calls
        assert json.loads(call.function.arguments)["city"] in {"Oslo", "Rome"}


def schema(servers):
    messages = [{"role": "user", "content": "I won!"}]
    request = {"model": CHAT_MODEL, "messages": messages, "response_format": Mood, "temperature": 0}
    reply = client(servers.real).chat.completions.parse(**request)
    assert isinstance(reply.choices[0].message.parsed, Mood)
    with client(servers.real).chat.completions.stream(**request) as events:
        assert isinstance(events.get_final_completion().choices[0].message.parsed, Mood)


def completion(servers):
    reply = client(servers.real).completions.create(model=CHAT_MODEL, prompt="Hi", max_tokens=8, temperature=0)
    assert reply.choices[0].text


def embedding(servers):
    # As base64, unless asked for numbers: the client reads it.
    reply = client(servers.real).embeddings.create(model=EMBEDDING_MODEL, input=["One", "Two"])
    numbers = client(servers.real).embeddings.create(
        model=EMBEDDING_MODEL, input=["One", "Two"], encoding_format="float"
    )
    assert [len(row.embedding) for row in reply.data] == [384, 384]
    assert all(abs(a - b) < 1e-4 for a, b in zip(reply.data[0].embedding, numbers.data[0].embedding, strict=True))


def models(servers):
    listed = {model.id for model in client(servers.real).models.list()}
    assert CHAT_MODEL in {name.removesuffix(":latest") for name in listed}
    assert client(servers.real).models.retrieve(CHAT_MODEL).id == CHAT_MODEL


def error(servers):
    request = {**SHORT, "model": "nope"}
    exc = caught(openai.NotFoundError, lambda: client(servers.real).chat.completions.create(**request))
    assert exc.body["message"] == "model 'nope' not found"
    assert exc.body["type"] == "not_found_error"


def error_in_a_stream(servers):
    messages = [{"role": "user", "content": "break:2"}]
    parts = client(servers.scripted).chat.completions.create(model=AGENT, messages=messages, stream=True)
    exc = caught(openai.APIError, lambda: list(parts))
    assert "broke as told" in exc.message


if __name__ == "__main__":
    checks.run(
        chat,
        stream,
        stream_helper,
        tool,
        tool_in_a_stream,
        tool_that_must_be_called,
        schema,
        completion,
        embedding,
        models,
        error,
        error_in_a_stream,
    )
